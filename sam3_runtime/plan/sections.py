"""What every section of ``variants.yaml`` is made of, those of families too: numbers and shares with their messages.

Pure: pydantic alone.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Quantize = Literal["none", "int8", "fp8"]


def no_text_for_number(value: Any) -> Any:
    """Before a number is read: text and truth values are none, whatever pydantic makes of them."""
    if isinstance(value, str) and (number := re.fullmatch(r"\s*([+-]?)0*(\d+(\.\d*)?)\s*", value)):
        raise ValueError(f"{value!r} is text; write the number without quotes: {number[1]}{number[2]}")
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a number")
    return value


def _none_is_none(value: Any) -> Any:
    return "none" if value is None else value


Positive = Annotated[int, BeforeValidator(no_text_for_number), Field(ge=1, strict=True)]
Share = Annotated[float, BeforeValidator(no_text_for_number), Field(ge=0, le=1)]
NonNegative = Annotated[float, BeforeValidator(no_text_for_number), Field(ge=0, allow_inf_nan=False)]
QuantizeValue = Annotated[Quantize, BeforeValidator(_none_is_none)]


class Section(BaseModel):
    """A section of ``variants.yaml``: keys that there are not are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def params(self) -> dict[str, Any]:
        """What jobs depend on. Where images are is not among it: their content is, by a digest."""
        return self.model_dump(exclude={"source"})
