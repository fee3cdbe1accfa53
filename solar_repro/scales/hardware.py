"""What a dry run computes with: the base's dimensions, before it is fetched, and the GPUs."""

from typing import Annotated, Literal

from pydantic import Field

from solar_repro.scales.section import Positive, Section


class Shape(Section):
    """Dimensions of a base model, named as in its config.json."""

    model_type: Literal["llama", "mistral"] = "llama"
    hidden_size: Positive
    intermediate_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive
    vocab_size: Positive
    tie_word_embeddings: bool = False
    stored_bytes: Literal[2, 4] = 2
    """Bytes per parameter in its files."""


class Hardware(Section):
    """GPUs and cores that a dry run computes with; no effect on results.

    The default is one H100 SXM in dense bfloat16.
    """

    gpus: Positive = 1
    gpu_memory_gib: Annotated[float, Field(gt=0)] = 80
    gpu_tflops: Annotated[float, Field(gt=0)] = 989.4
    mfu: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Share of the peak FLOPs per second that training reaches."""
    cpu_gflops: Annotated[float, Field(gt=0)] | None = None
    """GFLOP/s that training reaches on the cores of a machine without a GPU. Without it only GPUs count."""
