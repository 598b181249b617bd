"""The smallest interface of an engine that works: named inputs and outputs, ``infer``, ``close``.

What may be fed is checked here once, for every backend, against the engine's own record. Knows no backend and no model.
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
    """An array that lies on a device. ``np.asarray`` brings a copy of it to the host.

    It is a view of memory that its engine writes again on its next run: what is to be kept is copied.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, rows: slice) -> DeviceArray:
        """Some rows of the first dimension, by address: nothing is copied."""

    @abstractmethod
    def astype(self, dtype: Any, name: str) -> DeviceArray:
        """The same values in another floating-point type; the array itself where it has that type.

        They lie in a block for that ``name`` and type, which the next conversion of the same writes again.
        """

    @abstractmethod
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """A copy on the host, once the device has written it."""


AnyArray = Array | DeviceArray
"""What engines take and give: on the host or on the device, as their backend does."""


class Device(ABC):
    """Where the engines of one variant run, and the steps around them that are done there too.

    ``queues``: whether it goes on with what it was given while the host does something else.
    """

    name: str
    queues: ClassVar[bool] = False

    @abstractmethod
    def preprocess(
        self, images: Sequence[Image], resolution: int, preprocessing: Preprocessing, dtype: str
    ) -> AnyArray:
        """:func:`sam3_runtime.imaging.preprocess.preprocess`, in the vision encoder's element type: [B, 3, R, R]."""

    @abstractmethod
    def fetch(self, arrays: Mapping[str, AnyArray]) -> dict[str, Array]:
        """Bring arrays to the host, together."""

    @abstractmethod
    def begin_masks(self, logits: AnyArray, row: int, rows: NDArray[np.intp], size: Size) -> Finish:
        """Some masks of one prompt at the picture's size: ``logits`` [P, Q, h, w] → ``rows`` of ``row``.

        Gives a function that waits for them: what the device makes of ``logits`` is in its queue, and they may be
        written again.
        """

    def memory(self) -> tuple[int, int] | None:
        """Free and total bytes of the device's own memory; None where it has none."""
        return None

    def synchronize(self) -> None:  # noqa: B027 (nothing runs behind the host's back on a CPU)
        """Wait for everything that was given to the device."""

    def close(self) -> None:  # noqa: B027 (likewise)
        """Free what the device holds, after its engines. Closing twice does nothing."""


@dataclass(frozen=True)
class EngineOptions:
    """How engines are opened. ``threads``: of one engine on a CPU, all cores when None. ``providers``: ONNX Runtime's
    execution providers in order of preference, its CPU provider when empty. ``gpu``: its number, as
    :mod:`sam3_runtime.core.gpus` counts. ``cuda_graphs``: whether TensorRT engines replay their launches as one while
    shapes stay."""

    threads: int | None = None
    providers: tuple[str, ...] = ()
    gpu: int = 0
    cuda_graphs: bool = True


class Engine(Closing, ABC):
    """One opened engine. ``infer`` may be called from several threads; calls of one engine run one after the other
    unless the backend says ``concurrent``. ``close`` only when none runs. Use it as a context manager.
    """

    concurrent: ClassVar[bool] = False

    def __init__(self, record: EngineRecord, variant: Variant | None = None) -> None:
        self.record = record
        self._variant = variant
        self._lock = Lock()

    @property
    def inputs(self) -> tuple[TensorRecord, ...]:
        return self.record.inputs

    @property
    def outputs(self) -> tuple[TensorRecord, ...]:
        return self.record.outputs

    def infer(self, feeds: Mapping[str, AnyArray]) -> Mapping[str, AnyArray]:
        """Run the engine: an array for every input, an array from every output, shaped as :attr:`outputs` says.

        Arrays of the engine's own device are taken and given by address.

        :class:`EngineError` when a feed's name, type or shape is not what the engine takes; the message for too
        large a batch names the variant that takes it.
        """
        check_feeds(self.record, feeds, self._variant)
        if self.concurrent:
            return self._run(feeds)
        with self._lock:
            return self._run(feeds)

    @abstractmethod
    def _run(self, feeds: Mapping[str, Any]) -> Mapping[str, AnyArray]:
        """Run with feeds that were checked. Arrays on the host belong to the caller; see :class:`DeviceArray`."""

    def release(self) -> None:
        """Called when the engine will not be needed for a while; one that comes back on demand frees its memory."""

    def limit(self, symbol: str) -> int:
        """The largest value of a dynamic dimension."""
        return self.record.profile[symbol][2]

    def cast(self, arrays: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """The arrays that this engine takes, in its own element types: precision differs from part to part.

        Arrays of a device hold until the next cast: run the engine first.
        """
        found = {spec: arrays[spec.name] for spec in self.inputs if spec.name in arrays}
        return {
            spec.name: array.astype(spec.dtype, spec.name)
            if isinstance(array, DeviceArray)
            else np.asarray(array, spec.dtype)
            for spec, array in found.items()
        }


def check_feeds(record: EngineRecord, feeds: Mapping[str, AnyArray], variant: Variant | None = None) -> dict[str, int]:
    """The value of each dynamic dimension in ``feeds``; :class:`EngineError` where they do not fit ``record``."""
    expected = {spec.name for spec in record.inputs}
    if feeds.keys() != expected:
        missing, extra = sorted(expected - feeds.keys()), sorted(feeds.keys() - expected)
        parts = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"does not take {', '.join(extra)}"] * bool(extra)
        raise EngineError(f"the {record.part} {' and '.join(parts)}", f"its inputs are {', '.join(sorted(expected))}")
    values: dict[str, int] = {}
    for spec in record.inputs:
        _check_tensor(record.part, spec, feeds[spec.name], values)
    for symbol, value in values.items():
        _check_range(record, symbol, value, variant)
    refusal = record.spec.sizes(record.part, values)
    if refusal:
        raise EngineError(*refusal)
    return values


def _check_tensor(part: str, spec: TensorRecord, array: AnyArray, values: dict[str, int]) -> None:
    """Check type, rank and fixed dimensions of one feed; note its dynamic ones in ``values``."""
    where = f"the {part}'s input {spec.name}"
    if not isinstance(array, (np.ndarray, DeviceArray)):
        raise EngineError(f"{where} is a {type(array).__name__}", "feed NumPy arrays")
    if array.dtype != np.dtype(spec.dtype):
        raise EngineError(f"{where} is {array.dtype}", f"this engine takes {spec.dtype}")
    wanted = f"it takes [{', '.join(map(str, spec.shape))}]"
    if array.ndim != len(spec.shape):
        raise EngineError(f"{where} has the shape {list(array.shape)}", wanted)
    for size, dim in zip(array.shape, spec.shape, strict=True):
        known = values.setdefault(dim, size) if isinstance(dim, str) else dim
        if size != known:
            also = f", and {dim} is {known} in another input" if isinstance(dim, str) else ""
            raise EngineError(f"{where} has the shape {list(array.shape)}", wanted + also)


def _check_range(record: EngineRecord, symbol: str, value: int, variant: Variant | None) -> None:
    low, _, high = record.profile.get(symbol, (0, 0, value))
    if low <= value <= high:
        return
    if value > high and symbol in record.spec.batched:
        raise too_large_a_batch(record, value, variant)
    raise EngineError(f"the {record.part} got {symbol} = {value}", f"this engine takes {symbol} from {low} to {high}")


def too_large_a_batch(record: EngineRecord, value: int, variant: Variant | None) -> EngineError:
    """The error that names the variant to build for ``value`` images or prompts at once."""
    here = variant.name if variant else f"an engine of batch {record.batch}"
    message = f"the {record.part} got a batch of {value}, and {here} takes {record.batch} at most"
    if variant is None:
        return EngineError(message, f"build a variant with batch: {value}, or feed fewer at once")
    larger = variant.changed(batch=value)
    return EngineError(message, f"build {larger.name}: add to variants.yaml\n{larger.yaml_line}\nor feed fewer at once")
