"""Lets TensorRT (10 and older) measure the scales of a graph itself, on frames of a video or on pictures.

A calibration is a build whose engine is thrown away: TensorRT asks for batches of frames while it runs, and hands over
its cache of scales. Frames go through the runtime's own preprocessing, on the processor, while the GPU runs those
before. PyTorch is not needed. Knows neither the cache's form nor how a network is built.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import onnx

from sam3_runtime.core.errors import CalibrationError
from sam3_runtime.core.files import sha256_of, written_whole
from sam3_runtime.core.wording import counted
from sam3_runtime.engines.building import Task
from sam3_runtime.engines.building.tensorrt_calibrators import make_calibrator
from sam3_runtime.engines.building.tensorrt_messages import OutOfMemory
from sam3_runtime.families.base import RESOLUTION, Range
from sam3_runtime.graphs.read import Graph, read_graph
from sam3_runtime.imaging.preprocess import FloatArray, preprocess
from sam3_runtime.quantize.calibration_cache import CalibratorRecord, failures, parse_cache
from sam3_runtime.quantize.frames import Frames, batches, measured_on, prepared

Announce = Callable[[str], None]
Upload = Callable[[FloatArray], int]

_THREADS = 8  # frames prepared ahead, 20 MB each at 1008


def calibrate(
    graph: Path,
    cache: Path,
    report: Path,
    params: Mapping[str, Any],
    settings: Mapping[str, Any],
    announce: Announce = print,
) -> None:
    """Calibrate the float32 ``graph``; write TensorRT's ``cache`` and ``report``, what it holds for.

    ``params`` are ``source`` (a list), ``frames``, ``batch``, ``algorithm``, for percentiles ``percentile``, and
    ``toolchain``; ``settings`` the builder's that need not be those of the engine. Raises :class:`CalibrationError`
    where no frame can be used or TensorRT finds no scales, :class:`BuildError` for what TensorRT refuses.
    """
    started = time.monotonic()
    facts = read_graph(graph)
    resolution = _checked(facts, graph)
    frames = Frames(params["source"], params["frames"])
    preprocessing = facts.preprocessing
    batch = min(params["batch"], frames.expected())
    pixels = prepared(
        frames, lambda image: preprocess([image], resolution, preprocessing), min(os.cpu_count() or 1, _THREADS)
    )
    feed = Feed(batches(pixels, batch), frames, announce)
    task = Task(
        graph=facts,
        path=graph.resolve(),
        engine=cache,
        ranges=dict.fromkeys(facts.part.dynamic, Range(batch, batch, batch)),
        settings=settings,
        announce=announce,
        precision="fp32",
        toolchain=params["toolchain"],
    )
    data, zeros = _run(task, feed, params["algorithm"], params.get("percentile"))
    header, values = parse_cache(data)
    failed = failures(values, zeros)
    scales = {name: value for name, value in values.items() if name not in failed}
    if not scales:
        reasons = "; ".join(dict.fromkeys(failed.values())) or "its cache is empty"
        raise CalibrationError(
            f"TensorRT found no scale for any tensor of {graph.name} ({reasons})",
            "look at the frames of calibration.source, or use `calibration: {method: qdq}`",
        )
    with written_whole(cache) as temporary:
        temporary.write_bytes(data)
    record = CalibratorRecord(
        **measured_on(frames, facts, preprocessing, params, started),
        tensorrt=params["toolchain"]["version"],
        batch=batch,
        header=header,
        cache_sha256=sha256_of(cache),
        scales=scales,
        failed=failed,
        missing=tuple(name for name in float_tensors(graph) if name not in values),
    ).sealed()
    record.write(report)
    shortage = frames.shortage()
    if shortage:
        announce(shortage)
    frames_taken = counted(record.frames, "frame")
    print(f"{record.algorithm} over {frames_taken}, {record.seconds:.0f} s: {record.summary()}", flush=True)


def _checked(facts: Graph, graph: Path) -> int:
    """The resolution of a graph that can be calibrated."""
    again = f"delete it and run snakemake {graph}"
    if RESOLUTION not in facts.axes:
        raise CalibrationError(f"{graph} does not say its resolution", again)
    if facts.precision != "fp32" or facts.quantize:
        kind = facts.quantize or facts.precision
        raise CalibrationError(f"{graph} is {kind}: calibrators take float32 graphs", again)
    return facts.axes[RESOLUTION]


class Feed:
    """What TensorRT's calibrator asks for and gives: batches until there are no more, and the cache.

    TensorRT calls it from C++ that knows no exception: ``failure`` keeps what went wrong, and the batches end there.
    The first batch is prepared when this is made, so that a source without frames fails before anything is built.
    """

    def __init__(self, found: Iterator[FloatArray], frames: Frames, announce: Announce) -> None:
        first = next(found)
        self.nbytes = first.nbytes
        self.upload: Upload | None = None
        self.cache: bytes | None = None
        self.failure: Exception | None = None
        self._left = chain([first], found)
        self._expected = frames.expected()
        self._announce = announce
        self._taken = 0
        self._said: float | None = None

    def next_batch(self) -> int | None:
        """The address of the next batch on the GPU; nothing after the last."""
        try:
            batch = next(self._left, None)
            if batch is None or self.upload is None:
                return None
            self._tell(len(batch))
            return self.upload(batch)
        except Exception as error:
            self.failure = error
            return None

    def keep(self, cache: bytes) -> None:
        if self.failure is None:
            self.cache = cache

    def is_done(self) -> bool:
        """Whether the rest of the build is of no use."""
        return self.cache is not None or self.failure is not None

    def _tell(self, size: int) -> None:
        """Say how far it is, and after the first batch how long it will take."""
        now = time.monotonic()
        if self._said is not None and self._taken == size:
            rest = (now - self._said) / size * (self._expected - size)
            self._announce(f"TensorRT calibrates on {counted(self._expected, 'frame')}: about {rest:.0f} s more")
        self._said = now
        self._taken = min(self._taken + size, self._expected)
        print(f"calibrating on frame {self._taken} of {self._expected}", flush=True)


def _run(task: Task, feed: Feed, algorithm: Any, percentile: float | None) -> tuple[bytes, Collection[str]]:
    """Let TensorRT take what ``feed`` has. Returns its cache, and the tensors that it called uniformly zero."""
    from sam3_runtime.engines.building import tensorrt

    def make(trt: Any) -> Any:
        return make_calibrator(
            trt,
            algorithm,
            percentile,
            batch=task.ranges["B"].opt,
            next_batch=feed.next_batch,
            keep=feed.keep,
        )

    with _device(feed):
        try:
            zeros = tensorrt.calibrate(task, make, task.ranges["B"].opt, feed.is_done)
        except OutOfMemory as error:
            raise CalibrationError(
                error.message, f"set a smaller `calibration: {{batch: …}}` than {task.ranges['B'].opt}"
            ) from None
        finally:
            if feed.failure is not None:
                raise feed.failure
    if not feed.cache:
        raise CalibrationError(f"TensorRT wrote no calibration cache for {task.path.name}", "see the job's log")
    return feed.cache, zeros


@contextmanager
def _device(feed: Feed) -> Iterator[None]:
    """Let ``feed`` upload its batches to the GPU, each to the place of the one before."""
    from sam3_runtime.engines.running.cuda import Cuda

    cuda = Cuda()
    try:
        block = cuda.alloc(feed.nbytes)

        def upload(batch: FloatArray) -> int:
            cuda.upload(block, batch)
            cuda.synchronize()
            return block.pointer

        feed.upload = upload
        yield
        block.free()
    finally:
        cuda.close()


def float_tensors(graph: Path) -> list[str]:
    """The graph's float32 tensors that are computed or fed, as opposed to weights, in order."""
    model = onnx.load(graph, load_external_data=False)
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    floating = {value.name for value in values if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    computed = [value.name for value in model.graph.input] + [name for node in model.graph.node for name in node.output]
    return [name for name in computed if name in floating]
