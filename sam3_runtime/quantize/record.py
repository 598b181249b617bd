"""What was measured, on what: the JSON in ``calibration/`` that the quantised graph is made from.

Knows neither how ranges are found nor how they are written into a graph. Pure: pydantic alone.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import Self

from sam3_runtime.core.errors import CalibrationError
from sam3_runtime.core.files import digest_of
from sam3_runtime.core.wording import counted
from sam3_runtime.plan.settings import Algorithm
from sam3_runtime.records.records import Preprocessing, Record

Amax = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Measurement(Record):
    """Scales measured on frames: ``key`` is what they hold for. The same inputs give the same file, but for
    ``seconds``."""

    key: str
    onnx_sha256: str = Field(description="of the graph with its external data")
    checkpoint_digest: str
    preprocessing: Preprocessing
    frames: int
    frames_asked: int
    frames_sha256: str = Field(description="of the decoded pixels, in order")
    algorithm: Algorithm
    percentile: float | None = None
    seconds: float

    def depends_on(self) -> dict[str, Any]:
        return {
            "frames": self.frames_sha256,
            "preprocessing": self.preprocessing.model_dump(mode="json"),
            "onnx": self.onnx_sha256,
            "algorithm": self.algorithm,
            "percentile": self.percentile,
        }

    def expected_key(self) -> str:
        """The digest of everything that the scales depend on."""
        return digest_of(self.depends_on())

    def sealed(self) -> Self:
        return self.model_copy(update={"key": self.expected_key()})


class Calibration(Measurement):
    """The range of every input of a Linear or Conv2d of one vision encoder.

    ``amax`` maps modules to the largest absolute value that 8 bits shall stand for, ``without`` the other modules
    with weights to the reason why they have none.
    """

    amax: dict[str, Amax]
    without: dict[str, str]

    def summary(self) -> str:
        layers = counted(len(self.amax) + len(self.without), "layer")
        lines = [f"{layers} with weights, {len(self.amax)} of them with a scale"]
        lines += [f"  without: {module} ({reason})" for module, reason in self.without.items()]
        return "\n".join(lines)


def match_modules(patterns: Iterable[str], modules: Iterable[str]) -> set[str]:
    """The modules that one of the patterns (``neck.*``) matches; :class:`CalibrationError` for one that has none."""
    modules = list(modules)
    matched: set[str] = set()
    for pattern in patterns:
        found = fnmatch.filter(modules, pattern)
        if not found:
            near = difflib.get_close_matches(pattern, modules, n=3, cutoff=0.4) or modules[:3]
            raise CalibrationError(
                f"calibration.exclude: {pattern!r} matches no layer of the vision encoder",
                f"near it are {', '.join(near)}; patterns match whole names, as in neck.* or layers.0.*",
            )
        matched.update(found)
    return matched
