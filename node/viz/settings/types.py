"""Define the kinds of values that settings have, and the base class of their sections."""

from __future__ import annotations

from typing import Annotated

import pydantic
from pydantic import ConfigDict, Field

Port = Annotated[int, Field(ge=1, le=65_535)]
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Percent = Annotated[int, Field(ge=0, le=100)]


class Section(pydantic.BaseModel):
    """Base class of the sections: frozen, and a key that is not known is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
