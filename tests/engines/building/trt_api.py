"""Which names each TensorRT release has, for tests of code that runs under nine of them.

    python tests/engines/building/trt_api.py FULL.json      writes trt_api.json beside this file

``FULL.json`` has all classes and members that the bindings of each release declare ({"versions": {release: {class:
[members]}}}); kept are the classes in ``CLASSES``, and of their members those whose names occur in the sources that
speak to TensorRT. A name that is used and not kept is missing from every fake release: make the file again.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

KEPT = Path(__file__).with_name("trt_api.json")
PACKAGE = Path(__file__).resolve().parents[3] / "sam3_runtime"
SOURCES = (
    "engines/building/tensorrt*.py",
    "engines/building/timing_cache.py",
    "engines/running/*.py",
    "quantize/calibrator*.py",
)
CLASSES = (
    *("Builder", "IBuilderConfig", "INetworkDefinition", "ILayer", "ITensor", "OnnxParser", "ParserError"),
    *("IOptimizationProfile", "ITimingCache", "ICudaEngine", "EngineInspector", "Runtime", "IExecutionContext"),
    *("BuilderFlag", "NetworkDefinitionCreationFlag", "MemoryPoolType", "TacticSource", "ProfilingVerbosity"),
    *("TensorFormat", "LayerInformationFormat", "DataType", "ILogger", "IProgressMonitor"),
    *("ExecutionContextAllocationStrategy", "IInt8EntropyCalibrator2", "IInt8MinMaxCalibrator"),
    *("IInt8LegacyCalibrator",),
)
Api = dict[str, dict[str, list[str]]]
"""Release → class → members."""


def read_api() -> Api:
    """The kept names, by release in order of age."""
    kept = json.loads(KEPT.read_text())
    api: Api = {release: {} for release in kept["releases"]}
    for name, members in kept["classes"].items():
        for release in members.pop("in"):
            api[release][name] = [member for member, releases in members.items() if release in releases]
    return api


class _Member:
    """Refuses the names that its class lacks in its release."""

    _names: frozenset[str] = frozenset()

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name in object.__getattribute__(self, "_names"):
            return object.__getattribute__(self, name)
        raise AttributeError(f"{type(self).__name__} of this release has no {name}")

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in self._names:
            raise AttributeError(f"{type(self).__name__} of this release has no {name}")
        object.__setattr__(self, name, value)


def member_class(name: str, names: Iterable[str]) -> type:
    """A class whose instances have ``names`` and private names, and refuse all others."""
    return type(name, (_Member,), {"_names": frozenset(names)})


def _words() -> set[str]:
    text = "\n".join(path.read_text() for pattern in SOURCES for path in sorted(PACKAGE.glob(pattern)))
    words = set(re.findall(r"\w+", text))
    return words | {word.upper() for word in words}


def trim(full: Path) -> None:
    api: Api = json.loads(full.read_text())["versions"]
    words = _words()
    classes: dict[str, dict[str, list[str]]] = {}
    for name in CLASSES:
        having = [release for release in api if name in api[release]]
        members = sorted({member for release in having for member in api[release][name] if member in words})
        classes[name] = {"in": having} | {
            member: [release for release in having if member in api[release][name]] for member in members
        }
    lines = (
        f"  {json.dumps(name)}: {{\n"
        + ",\n".join(f"   {json.dumps(key)}: {json.dumps(releases)}" for key, releases in members.items())
        + "\n  }"
        for name, members in classes.items()
    )
    releases = json.dumps(list(api))
    KEPT.write_text(f'{{\n "releases": {releases},\n "classes": {{\n' + ",\n".join(lines) + "\n }\n}\n")


if __name__ == "__main__":
    trim(Path(sys.argv[1]))
