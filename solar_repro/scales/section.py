"""What all sections of settings are: frozen, and without keys that nobody reads."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from solar_repro.errors import UserError
from solar_repro.safety.paths import expand_home

FLAT_SECTION = "execution"
"""The section whose settings stand beside the other sections, without its name: `-P jobs=2`."""
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=1 << 31)]
"""NumPy takes none that is negative or has more than 32 bits; one bit is left for `seed_offset`."""


def _at_home(place: str) -> str:
    try:
        return expand_home(place)
    except UserError as error:
        raise ValueError(str(error)) from None


Place = Annotated[str, AfterValidator(_at_home)]
"""A folder or a hub id. `~` is replaced by the home folder here, as no shell does it."""
Precision = Literal["auto", "float32", "bfloat16", "float16"]
"""Number format that a model computes in. `auto`: bfloat16 where the hardware multiplies it, else float32."""


def _trainable(value: Any) -> Any:
    if value == "float16":
        raise ValueError(
            "float16 cannot be used for training here, because small gradients become zero in it; "
            "use auto, float32 or bfloat16"
        )
    return value


TrainingPrecision = Annotated[Literal["auto", "float32", "bfloat16"], BeforeValidator(_trainable)]
"""The same for training. Weights and optimiser state stay in float32."""


class Section(BaseModel):
    """Settings that belong together. An unknown key, an empty text and a number without end are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_min_length=1, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic takes `true` for 1 where a number is asked for."""
        kinds = set(_kinds(cls.model_fields[info.field_name].annotation))
        if kinds & {int, float} and bool not in kinds and _has_bool(value):
            raise ValueError("a number is needed, not true or false")
        return value

    @property
    def libraries(self) -> tuple[str, ...]:
        """Optional distributions that these settings ask for: their versions decide the result."""
        return ()


def _kinds(annotation: Any) -> Iterator[Any]:
    """The classes that an annotation is made of, down to sections, which see to their own."""
    if isinstance(annotation, type) and not get_args(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from _kinds(part)


def _has_bool(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_bool, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_bool, value))
    return isinstance(value, bool)


def plain(value: Any) -> Any:
    """Settings as JSON values: sections become dictionaries, tuples lists."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
