"""What all sections of settings are: frozen, and without keys that nobody reads."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """Settings that belong together; an unknown key is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def libraries(self) -> tuple[str, ...]:
        """Optional distributions that these settings ask for: their versions decide the result."""
        return ()
