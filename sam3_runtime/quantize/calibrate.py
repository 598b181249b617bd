"""Lets TensorRT (10 and older) measure the scales of a graph itself, on frames of a video or on images.

A calibration is a build whose engine is discarded: TensorRT requests batches of frames while it runs, and returns its
cache of scales. Frames go through the runtime's own preprocessing, on the CPU, while the GPU processes those before.
PyTorch is not needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
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
from sam3_runtime.families.base import Range
from sam3_runtime.graphs.read import read_graph
from sam3_runtime.imaging.preprocess import FloatArray
from sam3_runtime.quantize.calibration_cache import CalibratorRecord, failures, parse_cache
from sam3_runtime.quantize.frames import Frames, Log, batches, with_progress

_THREADS = 8  # frames prepared ahead, 20 MB each at 1008


def calibrate(
    graph: Path,
    cache: Path,
    report: Path,
    params: Mapping[str, Any],
    settings: Mapping[str, Any],
    log: Log = print,
) -> None:
    """Calibrate the float32 ``graph``; write TensorRT's ``cache``, and its :class:`CalibratorRecord` to ``report``.

    ``params`` are ``source`` (a list), ``frames``, ``batch``, ``algorithm``, for percentiles ``percentile``, and
    ``toolchain``; ``settings`` the builder's that may differ from those of the engine. Raises
    :class:`CalibrationError` where no frame can be used or TensorRT finds no scales, :class:`BuildError` where
    TensorRT refuses the graph.
    """
    started = time.monotonic()
    facts = read_graph(graph)
    if facts.precision != "fp32" or facts.quantize:
        kind = facts.quantize or facts.precision
        raise CalibrationError(
            f"{graph} is {kind}: calibrators take float32 graphs", f"delete it and run snakemake {graph}"
        )
    frames = Frames(params["source"], params["frames"], log)
    expected = frames.expected()
    batch = min(params["batch"], expected)
    ranges, toolchain = dict.fromkeys(facts.part.dynamic, Range(batch, batch, batch)), params["toolchain"]
    task = Task(facts, graph.resolve(), cache, ranges, settings, announce=log, precision="fp32", toolchain=toolchain)
    pixels = batches(frames.pixels(facts, _THREADS), batch)
    first = next(pixels)  # before anything is built: a source without frames fails here
    pixels = with_progress(chain([first], pixels), expected, "calibration by TensorRT", log)
    data, zeros = _run(task, pixels, first.nbytes, params)
    header, values = parse_cache(data)
    failed = failures(values, zeros)
    scales = {name: value for name, value in values.items() if name not in failed}
    if not scales:
        reasons = "; ".join(dict.fromkeys(failed.values())) or "its cache is empty"
        raise CalibrationError(
            f"TensorRT found no scale for any tensor of {graph.name} ({reasons})",
            "check the frames of calibration.source, or use `calibration: {method: qdq}`",
        )
    with written_whole(cache) as temporary:
        temporary.write_bytes(data)
    record = CalibratorRecord(
        **frames.measurement(facts, params, started),
        tensorrt=toolchain["version"],
        batch=batch,
        header=header,
        cache_sha256=sha256_of(cache),
        scales=scales,
        failed=failed,
        missing=tuple(name for name in float_tensors(graph) if name not in values),
    ).sealed()
    record.write(report)
    used = counted(record.frames, "frame")
    print(f"{record.algorithm} over {used}, {record.seconds:.0f} s: {record.summary()}", flush=True)


class Feed:
    """The callbacks of TensorRT's calibrator: batches from ``pixels``, each copied by ``upload``, and the cache.

    TensorRT calls it from C++ code that handles no exceptions: an error ends the batches and is kept in ``failure``.
    """

    def __init__(self, pixels: Iterator[FloatArray], upload: Callable[[FloatArray], int]) -> None:
        self.cache: bytes | None = None
        self.failure: Exception | None = None
        self._pixels, self._upload = pixels, upload

    def next_batch(self) -> int | None:
        """Copy the next batch to the GPU and return its address there; None after the last batch."""
        try:
            batch = next(self._pixels, None)
            return None if batch is None else self._upload(batch)
        except Exception as error:
            self.failure = error
            return None

    def keep(self, cache: bytes) -> None:
        """Take over TensorRT's cache."""
        if self.failure is None:
            self.cache = cache

    def is_done(self) -> bool:
        """Return whether the rest of the build can be skipped."""
        return self.cache is not None or self.failure is not None


def _run(
    task: Task, pixels: Iterator[FloatArray], nbytes: int, params: Mapping[str, Any]
) -> tuple[bytes, Collection[str]]:
    """Run TensorRT's calibration on batches of ``nbytes``; return its cache, and the tensors that it calls zero."""
    from sam3_runtime.engines.building import tensorrt
    from sam3_runtime.engines.running.cuda import Cuda

    batch = task.ranges["B"].opt
    with closing(Cuda()) as cuda:
        block = cuda.alloc(nbytes)

        def upload(pixels: FloatArray) -> int:
            cuda.upload(block, pixels)
            cuda.synchronize()
            return block.pointer

        feed = Feed(pixels, upload)

        def make(trt: Any) -> Any:
            algorithm, percentile = params["algorithm"], params.get("percentile")
            next_batch, keep = feed.next_batch, feed.keep
            return make_calibrator(trt, algorithm, percentile, batch=batch, next_batch=next_batch, keep=keep)

        try:
            zeros = tensorrt.calibrate(task, make, batch, feed.is_done)
        except OutOfMemory as error:
            hint = f"set a smaller `calibration: {{batch: …}}` than {batch}"
            raise CalibrationError(error.message, hint) from None
        finally:
            block.free()
            if feed.failure is not None:
                raise feed.failure
    if not feed.cache:
        raise CalibrationError(f"TensorRT wrote no calibration cache for {task.path.name}", "see the job's log")
    return feed.cache, zeros


def float_tensors(graph: Path) -> list[str]:
    """Return the names of the graph's float32 inputs and results, in order."""
    model = onnx.load(graph, load_external_data=False).graph
    values = [*model.input, *model.value_info, *model.output]
    floating = {value.name for value in values if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    names = [*(value.name for value in model.input), *(name for node in model.node for name in node.output)]
    return [name for name in names if name in floating]
