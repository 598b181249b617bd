"""The frames that scales are measured on: drawn evenly, counted, digested, and prepared while others are computed on.

Knows neither PyTorch nor TensorRT, nor what is measured.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle, islice
from typing import Any

import numpy as np

from sam3_runtime.core.errors import CalibrationError, SourceError
from sam3_runtime.core.source_files import expand_images, is_video
from sam3_runtime.graphs.read import Graph
from sam3_runtime.imaging.preprocess import FloatArray, Image
from sam3_runtime.media.sources import evenly_drawn_frames, read_video
from sam3_runtime.records.records import Preprocessing

Prepare = Callable[[Image], FloatArray]


class Frames:
    """The frames of a draw, once; counts and digests what it hands out.

    Iterating raises :class:`CalibrationError` where a source cannot be read or gives no frame at all.
    """

    def __init__(self, source: Sequence[str], asked: int) -> None:
        self._source = source
        self.asked = asked
        self.used = 0
        self.digest = hashlib.sha256()

    def __iter__(self) -> Iterator[Image]:
        try:
            for _, image in evenly_drawn_frames(self._source, self.asked):
                self.digest.update(repr(image.shape).encode())
                self.digest.update(np.ascontiguousarray(image).data)
                self.used += 1
                yield image
        except SourceError as error:
            raise CalibrationError(f"calibration.source: {error}") from None
        if self.used == 0:
            raise CalibrationError(
                f"calibration.source: no frame could be read from {', '.join(self._source)}",
                "name a video, a picture or a folder of pictures",
            )

    def expected(self) -> int:
        """How many there will be, as far as file lists and headers tell."""
        try:
            specs = [source for source in self._source if not is_video(source)]
            pictures = len(expand_images(specs, left_out=lambda _: None))  # which iterating logs
            total = pictures + sum(_promised(source) for source in self._source if is_video(source))
        except SourceError as error:
            raise CalibrationError(f"calibration.source: {error}") from None
        return min(total or self.asked, self.asked)

    def shortage(self) -> str | None:
        """What to say where fewer frames were used than asked for."""
        if self.used >= self.asked:
            return None
        return f"calibration.source has {self.used} of the {self.asked} frames asked for: all of them are used"


def measured_on(
    frames: Frames, graph: Graph, preprocessing: Preprocessing, params: Mapping[str, Any], started: float
) -> dict[str, Any]:
    """The fields of a :class:`Measurement`, its key to be sealed; ``started`` is of the monotonic clock."""
    return {
        "key": "",
        "onnx_sha256": graph.sha256,
        "checkpoint_digest": graph.checkpoint_digest,
        "preprocessing": preprocessing,
        "frames": frames.used,
        "frames_asked": frames.asked,
        "frames_sha256": frames.digest.hexdigest(),
        "algorithm": params["algorithm"],
        "percentile": params.get("percentile"),
        "seconds": round(time.monotonic() - started, 1),
    }


def _promised(video: str) -> int:
    with read_video(video) as opened:
        return opened.info.frames or 0


def prepared(frames: Iterable[Image], prepare: Prepare, threads: int) -> Iterator[FloatArray]:
    """``prepare`` of each frame, in order; with ``threads``, of that many frames ahead beside the caller's work."""
    if not threads:
        yield from map(prepare, frames)
        return
    ahead: deque[Future[FloatArray]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for image in frames:
            ahead.append(pool.submit(prepare, image))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def batches(pixels: Iterable[FloatArray], size: int) -> Iterator[FloatArray]:
    """[1, …] arrays joined to [size, …]; the last is filled up with those before it, so that no frame is lost."""
    before: list[FloatArray] = []
    waiting: list[FloatArray] = []
    for one in pixels:
        waiting.append(one)
        if len(waiting) == size:
            yield np.concatenate(waiting)
            before, waiting = waiting, []
    if waiting:
        yield np.concatenate(list(islice(cycle(waiting + before), size)))
