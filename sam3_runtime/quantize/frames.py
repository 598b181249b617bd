"""The frames that scales are measured on: drawn evenly, counted, hashed, and preprocessed in parallel with their use.

Independent of PyTorch and TensorRT, and of what is measured.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np

from sam3_runtime.core.errors import CalibrationError, SourceError
from sam3_runtime.core.source_files import expand_images, is_video
from sam3_runtime.core.wording import counted
from sam3_runtime.families.base import RESOLUTION
from sam3_runtime.graphs.read import Graph
from sam3_runtime.imaging.preprocess import FloatArray, Image, preprocess
from sam3_runtime.media.sources import evenly_drawn_frames, read_video

Log = Callable[[str], None]
"""Receives messages for people who wait."""

_PROGRESS_INTERVAL = 10.0  # seconds


class Frames:
    """``limit`` frames of ``source``, or as many as there are, to be iterated once; they are counted and hashed.

    Iterating raises :class:`CalibrationError` where a source cannot be read or has no frame at all. ``log`` gets a
    message where there are fewer frames than ``limit``.
    """

    def __init__(self, source: Sequence[str], limit: int, log: Log = print) -> None:
        self._source, self._log = source, log
        self.limit = limit
        self.used = 0
        self.digest = hashlib.sha256()

    def __iter__(self) -> Iterator[Image]:
        try:
            for _, image in evenly_drawn_frames(self._source, self.limit):
                self.digest.update(repr(image.shape).encode())
                self.digest.update(np.ascontiguousarray(image).data)
                self.used += 1
                yield image
        except SourceError as error:
            raise CalibrationError(f"calibration.source: {error}") from None
        if self.used == 0:
            raise CalibrationError(
                f"calibration.source: no frame could be read from {', '.join(self._source)}",
                "name a video, an image or a folder of images",
            )
        if self.used < self.limit:
            self._log(f"calibration.source has {self.used} of the {self.limit} frames asked for: all of them are used")

    def expected(self) -> int:
        """Return the number of frames by file lists and video headers, without decoding."""
        try:
            images = [source for source in self._source if not is_video(source)]
            total = len(expand_images(images, left_out=lambda _: None))  # iterating logs those
            for source in filter(is_video, self._source):
                with read_video(source) as video:
                    total += video.info.frames or 0
        except SourceError as error:
            raise CalibrationError(f"calibration.source: {error}") from None
        return min(total or self.limit, self.limit)

    def pixels(self, graph: Graph, threads: int) -> Iterator[FloatArray]:
        """Preprocess each frame for ``graph``: [1, 3, R, R], ``threads`` frames ahead of their use at most."""
        size, how = graph.axes[RESOLUTION], graph.preprocessing
        return prepared(self, lambda image: preprocess([image], size, how), min(os.cpu_count() or 1, threads))

    def measurement(self, graph: Graph, params: Mapping[str, Any], started: float) -> dict[str, Any]:
        """Return the fields of an unsealed :class:`Measurement`; ``started`` is a reading of the monotonic clock."""
        return {
            "key": "",
            "onnx_sha256": graph.sha256,
            "checkpoint_digest": graph.checkpoint_digest,
            "preprocessing": graph.preprocessing,
            "frames": self.used,
            "frames_asked": self.limit,
            "frames_sha256": self.digest.hexdigest(),
            "algorithm": params["algorithm"],
            "percentile": params.get("percentile"),
            "seconds": round(time.monotonic() - started, 1),
        }


def prepared(frames: Iterable[Image], prepare: Callable[[Image], FloatArray], threads: int) -> Iterator[FloatArray]:
    """Apply ``prepare`` to each frame, in order, to ``threads`` frames ahead of the caller; 0: to none ahead."""
    ahead: deque[Future[FloatArray]] = deque()
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for image in frames:
            ahead.append(pool.submit(prepare, image))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def batches(pixels: Iterable[FloatArray], size: int) -> Iterator[FloatArray]:
    """Join arrays [1, …] to [size, …]; the last one is filled up with frames before it, so that no frame is lost."""
    left = iter(pixels)
    before: list[FloatArray] = []
    while batch := list(islice(left, size)):
        yield np.concatenate(list(islice(cycle(batch + before), size)))
        before = batch


def with_progress(pixels: Iterable[FloatArray], total: int, label: str, log: Log) -> Iterator[FloatArray]:
    """Pass on arrays of ``total`` frames; ``log`` the remaining time after the first array, and print it later on.

    The clock starts when the first array is passed on: counting the frames of a video may take long before that.
    """
    done, started, reported = 0, 0.0, -math.inf
    for batch in pixels:
        started = started or time.monotonic()
        yield batch
        show = log if done == 0 else partial(print, flush=True)
        done, now = done + len(batch), time.monotonic()
        if done < total and now - reported > _PROGRESS_INTERVAL:
            left = (now - started) / done * (total - done)
            show(f"{label}: about {_duration(left)} more ({done} of {counted(total, 'frame')} done)")
            reported = now


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
