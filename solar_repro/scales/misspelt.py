"""What an unknown name of a setting may mean."""

from solar_repro.errors import nearest

ALIASES = {
    "lr": ("learning_rate",),
    "bs": ("global_batch_size", "batch_size"),
    "batch_size": ("global_batch_size",),
    "train_batch_size": ("global_batch_size", "batch_size"),
    "per_device_train_batch_size": ("per_device_batch_size",),
    "epochs": ("steps",),
    "num_epochs": ("epochs", "steps"),
    "num_train_epochs": ("epochs", "steps"),
    "wd": ("weight_decay",),
    "dtype": ("precision",),
    "seq_len": ("max_length", "context_length"),
    "max_seq_length": ("max_length", "context_length"),
    "gradient_checkpointing": ("activation_checkpointing",),
    "optim": ("optimizer",),
    "lr_scheduler_type": ("schedule",),
    "r": ("rank",),
}
"""What other training code calls a setting: our names for it, of which a section has one or none."""


def meant(key: str, known: list[str]) -> list[str]:
    """What an unknown dotted key may mean: a name of its own section, or of one around it, comes first,
    then the only one of that name elsewhere.
    """
    section, _, name = key.rpartition(".")
    ours, around = ALIASES.get(name, ()), section
    while around:
        if by_meaning := [path for path in (f"{around}.{alias}" for alias in ours) if path in known]:
            return by_meaning[:1]
        around = around.rpartition(".")[0]
    elsewhere = [path for path in known if path.rpartition(".")[2] == name]
    if len(elsewhere) == 1:
        return elsewhere
    inside = [path.rpartition(".")[2] for path in known if path.rpartition(".")[0] == section]
    if section and (found := nearest(name, inside)):
        return [f"{section}.{found[0]}"]
    anywhere = [path for path in known if path.rpartition(".")[2] in ours[:1]]
    return anywhere or nearest(key, known)
