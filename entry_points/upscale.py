"""Up-scale the base in depth (Sec. 2): stack two copies of it, with m layers cut from each."""

from entry_points.command import Arguments, make_step, parse, run_main, variant_option


def main() -> None:
    arguments = parse(
        __doc__,
        variant=variant_option("upscaled"),
        dry_run={
            "default": "false",
            "choices": ["true", "false"],
            "help": "only print layers, seams, parameters and bytes; write nothing",
        },
    )
    if arguments.options.dry_run == "true":
        print(describe(arguments))
    else:
        make_step(arguments, "upscale", lambda plan: plan.model(arguments.options.variant))


def describe(arguments: Arguments) -> str:
    """Describe what would be written; for the embedded base, which may not exist yet, the layer map alone."""
    from solar_repro.checkpoint.folder import open_checkpoint
    from solar_repro.checkpoint.layer_map import variant_map
    from solar_repro.checkpoint.model_source import locate_model
    from solar_repro.checkpoint.upscale import plan_upscale
    from solar_repro.errors import UserError
    from solar_repro.paper.variants import variant
    from solar_repro.scales.settings import EMBEDDED

    kind, scale = variant(arguments.options.variant).layer_map, arguments.scale
    if scale.base.model == EMBEDDED:
        return str(variant_map(kind, scale.base.training.layers, scale.upscale.m))
    folder = locate_model(scale.base.model, scale.data.mirror_folder)
    if isinstance(folder, str):
        raise UserError(
            f"--dry_run: {folder} is no folder and not in a mirror, and a dry run downloads nothing; "
            f"fetch it (hf download {folder}) and give its folder as base.model"
        )
    chosen = variant_map(kind, open_checkpoint(folder).layers, scale.upscale.m)
    return str(plan_upscale(folder, chosen, scale.upscale.shard_bytes, scale.upscale.unproved))


if __name__ == "__main__":
    run_main(main)
