"""The fastest attention that is right for training on the device that is there."""

from transformers import PreTrainedModel

from solar_repro.device import device
from solar_repro.layers.cpu_attention import use_cpu_training_attention
from solar_repro.layers.packed_attention import use_packed_attention


def use_training_attention(model: PreTrainedModel, precision: str) -> None:
    """Let a model that attends through SDPA train with a faster attention, if there is one for `precision`.

    On an NVIDIA GPU that is bfloat16 alone, on Apple's none. Documents of packed rows do not see each other,
    with or without it.
    """
    if model.config._attn_implementation != "sdpa":
        return
    if device() == "cpu":
        use_cpu_training_attention(model)
    elif device() == "cuda" and precision == "bfloat16":
        use_packed_attention(model)
