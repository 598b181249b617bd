"""The backends: their names, where they build and run, what they support, and the modules that do both.

The only table of them: no other module contains a backend's name. A backend is one entry here, one building module with
``build(task)`` and one running module with ``check_engine`` and ``open_engine`` (``engines/running``). Pure: standard
library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sam3_runtime.plan.settings import BuildSection

Release = tuple[int, ...]
"""A version to compare: (8, 6, 1); () where it is not known."""
Place = Literal["cpu", "gpu"]
_NEVER: Release = (1 << 30,)


@dataclass(frozen=True)
class BackendSpec:
    """One backend.

    ``module`` is its Python library, ``distributions`` the packages that contain it, the first one found giving its
    version, and ``tool`` a program on PATH that builds too. ``precision`` is the meaning of ``auto``. Modules are paths
    in this package, and the first of each is imported when it is used. ``settings`` selects the part of ``build:`` that
    its engines depend on.
    """

    name: str
    title: str
    run_code: tuple[str, ...]
    runs_on: Place = "cpu"
    builds_on: Place = "cpu"
    build_code: tuple[str, ...] = ()
    """Empty: nothing is built for it."""
    module: str | None = None
    distributions: tuple[str, ...] = ()
    tool: str | None = None
    install: str | None = None
    run_imports: tuple[str, ...] = ()
    """Libraries that its running modules may import beside ``module``, such as PyTorch."""
    graph_form: Literal["onnx", "torch"] = "onnx"
    """What it builds from: an ONNX file or an exported PyTorch program."""
    precision: Literal["fp32", "fp16"] = "fp32"
    settings: Callable[[BuildSection], dict[str, Any]] = lambda _: {}
    auto: bool = False
    """Whether ``backend: auto`` may choose it: the first such entry that can build on this machine."""
    compiles_for_generations: bool = False
    """Whether it builds for GPU generations that the settings list, whatever GPU is there."""
    products_of_cpu: bool = False
    """Whether the types of its 8-bit products depend on the CPU."""
    fp8_from: Release = _NEVER
    """The first release that builds FP8 engines."""
    float16_scales_from: Release = ()
    """The first release that gets 8-bit graphs in float16; earlier ones get float32 graphs."""
    flags_before: Release = ()
    """The first release without weak typing: until then a precision may be asked for that is not the graph's."""
    calibrators_before: Release = ()
    """The first release without calibrators of its own."""

    @property
    def is_built(self) -> bool:
        """Whether engines are built for it."""
        return bool(self.build_code)

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that may be asked for."""
        return ("fp32",) if self.precision == "fp32" else ("fp32", "fp16")

    @property
    def on_gpu(self) -> bool:
        """Whether its engines run on an NVIDIA GPU."""
        return self.runs_on == "gpu"

    @property
    def calibrates(self) -> bool:
        """Whether a release of it has calibrators of its own."""
        return bool(self.calibrators_before)

    def builds_fp8(self, release: Release = ()) -> bool:
        """Return whether that release builds FP8 engines; any release, where it is not known."""
        return self.fp8_from != _NEVER and (not release or release >= self.fp8_from)

    def wants_float32_scales(self, release: Release) -> bool:
        """Return whether that release needs the 8-bit graph in float32."""
        return () < release < self.float16_scales_from

    def takes_flags(self, release: Release) -> bool:
        """Return whether that release can be asked for a precision that is not the graph's."""
        return release < self.flags_before


def _tuned(section: BuildSection, others: dict[str, Any]) -> dict[str, Any]:
    optimal = section.optimal.model_dump(exclude_none=True)
    return others | ({"optimal": optimal} if optimal else {})


def _tensorrt(section: BuildSection) -> dict[str, Any]:
    # Without the builder and the timing cache, which do not affect the engine.
    return _tuned(section, section.tensorrt.model_dump(exclude_none=True, exclude={"builder", "timing_cache"}))


_LISTED = (
    BackendSpec(
        name="tensorrt",
        title="TensorRT",
        module="tensorrt",
        distributions=(
            *("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
            *("tensorrt-cu13-bindings", "tensorrt-cu12-bindings", "tensorrt-bindings"),
        ),
        tool="trtexec",
        install="pip install 'sam3-runtime[tensorrt]'",
        runs_on="gpu",
        builds_on="gpu",
        auto=True,
        precision="fp16",
        fp8_from=(10,),
        float16_scales_from=(10,),
        flags_before=(11,),
        calibrators_before=(11,),
        build_code=("engines/building/tensorrt",),
        run_code=("engines/running/tensorrt", "engines/running/cuda_device"),
        settings=_tensorrt,
    ),
    BackendSpec(
        name="onnxruntime",
        title="ONNX Runtime",
        module="onnxruntime",
        distributions=("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
        install="pip install onnxruntime",
        auto=True,
        products_of_cpu=True,
        build_code=("engines/building/onnxruntime",),
        run_code=("engines/running/onnxruntime", "engines/running/host"),
        settings=lambda section: {"optimization": section.optimization},
    ),
    BackendSpec(
        name="tensorrt-rtx",
        title="TensorRT-RTX",
        module="tensorrt_rtx",
        distributions=("tensorrt-rtx-cu12", "tensorrt-rtx-cu13", "tensorrt-rtx"),
        install="pip install 'sam3-runtime[rtx]'",
        runs_on="gpu",
        precision="fp16",
        compiles_for_generations=True,
        fp8_from=(),
        build_code=("engines/building/tensorrt_rtx",),
        run_code=("engines/running/tensorrt_rtx", "engines/running/cuda_device"),
        settings=lambda section: _tuned(section, {"gpus": section.gpus}),
    ),
    BackendSpec(name="fake", title="the backend for tests", run_code=("engines/running/fake", "engines/running/host")),
)
BACKENDS = {spec.name: spec for spec in _LISTED}
"""By name, in the order in which ``backend: auto`` looks for one that builds here."""
BUILT = tuple(sorted(spec.name for spec in _LISTED if spec.is_built))
"""Those that engines are built for, by name."""


def code_of() -> frozenset[str]:
    """Return the modules that build and run the engines of any backend; a job needs those of one."""
    return frozenset(name for spec in _LISTED for name in (*spec.build_code, *spec.run_code))
