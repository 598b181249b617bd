"""The interface of an engine: named inputs and outputs, ``infer``, ``close``; and of the device that it runs on.

Inputs are checked here once for every backend, against the engine's own record.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.core.closing import Closing
from sam3_runtime.core.errors import EngineError
from sam3_runtime.imaging.postprocess import Finish, Size
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.records import EngineRecord, Preprocessing, TensorRecord

Array = NDArray[Any]


class DeviceArray(ABC):
    """An array on a device. ``np.asarray`` copies it to the host.

    It is a view of memory that its engine overwrites on its next run: copy what is to be kept.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, rows: slice) -> DeviceArray:
        """Return some rows of the first dimension, by address: nothing is copied."""

    @abstractmethod
    def astype(self, dtype: Any, name: str) -> DeviceArray:
        """Return the values in another floating-point type; the array itself where it has that type.

        They are in a block for that ``name`` and type, which the next conversion of the same overwrites.
        """

    @abstractmethod
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return a copy on the host, once the device has written it."""


AnyArray = Array | DeviceArray
"""Inputs and outputs of engines: on the host or on the device, depending on their backend."""


class Device(ABC):
    """Where the engines of one variant run, and the steps around them that are done there too.

    ``queues``: whether it works asynchronously, while the host does something else.
    """

    name: str
    queues: ClassVar[bool] = False

    @abstractmethod
    def preprocess(
        self, images: Sequence[Image], resolution: int, preprocessing: Preprocessing, dtype: str
    ) -> AnyArray:
        """Return ``images`` as pixels [B, 3, R, R] of ``dtype``.

        They equal those of :func:`sam3_runtime.imaging.preprocess.preprocess`.
        """

    @abstractmethod
    def fetch(self, arrays: Mapping[str, AnyArray]) -> dict[str, Array]:
        """Copy arrays to the host, together."""

    @abstractmethod
    def begin_masks(self, logits: AnyArray, row: int, rows: NDArray[np.intp], size: Size) -> Finish:
        """Begin to resize some masks of one prompt to the image's ``size``.

        Of ``logits`` [P, Q, h, w] these are ``rows`` of prompt ``row``. Returns a function that waits for them;
        ``logits`` may be overwritten before it is called.
        """

    def memory(self) -> tuple[int, int] | None:
        """Return free and total bytes of the device's own memory; None where it has none."""
        return None

    def synchronize(self) -> None:  # noqa: B027 (a CPU has nothing to wait for)
        """Wait for everything that was queued on the device."""

    def close(self) -> None:  # noqa: B027 (likewise)
        """Free the device's memory, after its engines. Closing twice does nothing."""


@dataclass(frozen=True)
class EngineOptions:
    """How engines are opened.

    ``threads``: of one engine on a CPU, all cores when None. ``providers``: ONNX Runtime's execution providers in order
    of preference, its CPU provider when empty. ``gpu``: its number, as in :mod:`sam3_runtime.core.gpus`.
    ``cuda_graphs``: whether TensorRT engines replay their launches as one while shapes stay.
    """

    threads: int | None = None
    providers: tuple[str, ...] = ()
    gpu: int = 0
    cuda_graphs: bool = True


class Engine(Closing, ABC):
    """One opened engine.

    ``infer`` may be called from several threads; calls of one engine run one after the other unless the backend is
    ``concurrent``. Call ``close`` only when none runs. Use it as a context manager.

    ``variant``, where it is known, lets the message for a batch that is too large name a sibling.
    """

    concurrent: ClassVar[bool] = False

    def __init__(self, record: EngineRecord) -> None:
        self.record = record
        self.variant: Variant | None = None
        self._lock = Lock()

    @property
    def inputs(self) -> tuple[TensorRecord, ...]:
        """The tensors that it takes."""
        return self.record.inputs

    @property
    def outputs(self) -> tuple[TensorRecord, ...]:
        """The tensors that it gives."""
        return self.record.outputs

    def infer(self, feeds: Mapping[str, AnyArray]) -> Mapping[str, AnyArray]:
        """Run the engine: an array for every input → an array from every output, with the shapes of :attr:`outputs`.

        Arrays on the engine's own device are passed by address. Raises :class:`EngineError` where a feed's name, type
        or shape does not fit.
        """
        check_feeds(self.record, feeds, self.variant)
        if self.concurrent:
            return self._run(feeds)
        with self._lock:
            return self._run(feeds)

    @abstractmethod
    def _run(self, feeds: Mapping[str, Any]) -> Mapping[str, AnyArray]:
        """Run with feeds that were checked. Arrays on the host belong to the caller; see :class:`DeviceArray`."""

    def release(self) -> None:
        """Tell the engine that it is not needed for a while; one that is opened on demand frees its memory."""

    def limit(self, symbol: str) -> int:
        """Return the largest value of a dynamic dimension."""
        return self.record.profile[symbol][2]

    def cast(self, arrays: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Return those of ``arrays`` that this engine takes, in its own element types.

        Arrays on a device are valid until the next cast: run the engine first.
        """
        found = {spec: arrays[spec.name] for spec in self.inputs if spec.name in arrays}
        return {
            spec.name: array.astype(spec.dtype, spec.name)
            if isinstance(array, DeviceArray)
            else np.asarray(array, spec.dtype)
            for spec, array in found.items()
        }


def check_feeds(record: EngineRecord, feeds: Mapping[str, AnyArray], variant: Variant | None = None) -> dict[str, int]:
    """Return the value of each dynamic dimension in ``feeds``.

    Raises :class:`EngineError` where they do not fit ``record``.
    """
    expected = {spec.name for spec in record.inputs}
    if feeds.keys() != expected:
        missing, extra = sorted(expected - feeds.keys()), sorted(feeds.keys() - expected)
        parts = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"does not take {', '.join(extra)}"] * bool(extra)
        raise EngineError(f"the {record.part} {' and '.join(parts)}", f"its inputs are {', '.join(sorted(expected))}")
    values: dict[str, int] = {}
    for spec in record.inputs:
        _check_tensor(record.part, spec, feeds[spec.name], values)
    for symbol, value in values.items():
        low, _, high = record.profile.get(symbol, (0, 0, value))
        if value > high and symbol in record.spec.batched:
            raise _too_large_a_batch(record, value, variant)
        if not low <= value <= high:
            message = f"the {record.part} got {symbol} = {value}"
            raise EngineError(message, f"this engine takes {symbol} from {low} to {high}")
    refusal = record.spec.sizes(record.part, values)
    if refusal:
        raise EngineError(*refusal)
    return values


def _check_tensor(part: str, spec: TensorRecord, array: AnyArray, values: dict[str, int]) -> None:
    """Check type, rank and fixed dimensions of one feed; add its dynamic ones to ``values``."""
    where = f"the {part}'s input {spec.name}"
    if not isinstance(array, (np.ndarray, DeviceArray)):
        raise EngineError(f"{where} is a {type(array).__name__}", "feed NumPy arrays")
    if array.dtype != np.dtype(spec.dtype):
        raise EngineError(f"{where} is {array.dtype}", f"this engine takes {spec.dtype}")
    hint = f"it takes [{', '.join(map(str, spec.shape))}]"
    if array.ndim != len(spec.shape):
        raise EngineError(f"{where} has the shape {list(array.shape)}", hint)
    for size, dim in zip(array.shape, spec.shape, strict=True):
        known = values.setdefault(dim, size) if isinstance(dim, str) else dim
        if size != known:
            also = f", and {dim} is {known} in another input" if isinstance(dim, str) else ""
            raise EngineError(f"{where} has the shape {list(array.shape)}", hint + also)


def _too_large_a_batch(record: EngineRecord, value: int, variant: Variant | None) -> EngineError:
    here = variant.name if variant else f"an engine of batch {record.batch}"
    message = f"the {record.part} got a batch of {value}, and {here} takes {record.batch} at most"
    if variant is None:
        return EngineError(message, f"build a variant with batch: {value}, or feed fewer at once")
    larger = variant.changed(batch=value)
    return EngineError(message, f"build {larger.name}: add to variants.yaml\n{larger.yaml_line}\nor feed fewer at once")
