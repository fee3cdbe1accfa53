"""What all sections of settings are: frozen, and without keys that nobody reads."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
"""What a model computes in; `auto`: bfloat16 where the device multiplies it in hardware, else float32."""


def _trainable(value: Any) -> Any:
    if value == "float16":
        raise ValueError(
            "float16 cannot train here: it is not bfloat16, and small gradients vanish in it; "
            "use auto, float32 or bfloat16"
        )
    return value


TrainingPrecision = Annotated[Literal["auto", "float32", "bfloat16"], BeforeValidator(_trainable)]
"""The same for training, of which weights and optimizer stay in float32."""


class Section(BaseModel):
    """Settings that belong together; an unknown key is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def libraries(self) -> tuple[str, ...]:
        """Optional distributions that these settings ask for: their versions decide the result."""
        return ()
