"""The records of measured ranges: the JSON files in ``calibration/`` that quantised graphs are made from. Pure."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable
from pathlib import Path
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
    """Scales measured on frames; the same inputs give the same file, except for ``seconds``."""

    key: str = Field(description="digest of everything that the scales depend on")
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
        """Return what the key is a digest of."""
        return {
            "frames": self.frames_sha256,
            "preprocessing": self.preprocessing.model_dump(mode="json"),
            "onnx": self.onnx_sha256,
            "algorithm": self.algorithm,
            "percentile": self.percentile,
        }

    def expected_key(self) -> str:
        """Return the key of this content."""
        return digest_of(self.depends_on())

    def check(self, path: Path, graph: Path, sha256: str) -> None:
        """Raise :class:`CalibrationError` where this record at ``path`` is not of ``graph`` with that digest."""
        again = f"delete {path} and run snakemake {path}"
        if self.onnx_sha256 != sha256:
            other, this = self.onnx_sha256[:12], sha256[:12]
            raise CalibrationError(f"{path} was measured on another graph ({other}) than {graph} ({this})", again)
        if self.key != self.expected_key():
            raise CalibrationError(f"{path} was edited: its content does not match its own key", again)

    def sealed(self) -> Self:
        """Return the record with its key."""
        return self.model_copy(update={"key": self.expected_key()})


class Calibration(Measurement):
    """The range of the input of every Linear and Conv2d of one graph.

    ``amax`` maps modules to the largest absolute value that 8 bits should represent, ``without`` the other modules
    with weights to the reason why they have no range.
    """

    amax: dict[str, Amax]
    without: dict[str, str]

    def summary(self) -> str:
        """Return lines for a log: how many layers have scales, and those without one."""
        layers = counted(len(self.amax) + len(self.without), "layer")
        lines = [f"{layers} with weights, {len(self.amax)} of them with a scale"]
        lines += [f"  without: {module} ({reason})" for module, reason in self.without.items()]
        return "\n".join(lines)


def match_modules(patterns: Iterable[str], modules: Iterable[str]) -> set[str]:
    """Return the modules that match a pattern such as ``neck.*``; raise :class:`CalibrationError` where none does."""
    modules = list(modules)
    matched: set[str] = set()
    for pattern in patterns:
        found = fnmatch.filter(modules, pattern)
        if not found:
            near = difflib.get_close_matches(pattern, modules, n=3, cutoff=0.4) or modules[:3]
            raise CalibrationError(
                f"calibration.exclude: {pattern!r} matches no layer",
                f"similar names are {', '.join(near)}; patterns match whole names, as in neck.* or layers.0.*",
            )
        matched.update(found)
    return matched
