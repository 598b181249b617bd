"""What tests of a run share: a detector that says what it saw, cameras made of lists, a clock, and no hanging."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from threading import Event, Thread
from typing import Any, TypeVar

import numpy as np

from sam3_runtime.families.sam3.banks import ClassInfo
from sam3_runtime.imaging.postprocess import Detections
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.media.images import TakeFromSources
from sam3_runtime.streams.cameras import Camera, Frames, Problem, Source, frame_at
from sam3_runtime.streams.flow import BatchResults

T = TypeVar("T")
CLASSES = (ClassInfo("cup", 0.3, (230, 60, 60)), ClassInfo("cat", 0.3, (40, 130, 240)))


def within(work: Callable[[], T], seconds: float = 60) -> T:
    """What ``work`` gives or raises; a failure where it does not end, which would be a hang."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:  # handed on
            outcome.append((None, error))

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, f"still running after {seconds} s: {[one.name for one in threading.enumerate()]}"
    value, error = outcome[0]
    if error is not None:
        raise error
    return value  # type: ignore[no-any-return]


def threads_of_runs() -> list[str]:
    """The names of a run's threads that are there."""
    return [one.name for one in threading.enumerate() if one.name.startswith(("read ", "infer", "watch", "write"))]


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def picture(value: int, size: tuple[int, int] = (24, 32)) -> Image:
    return np.full((*size, 3), value % 256, np.uint8)


class Seeing:
    """A detector that finds one thing of the first class on each image, with the image's value as its query."""

    classes = CLASSES

    def __init__(self, batch: int = 4, before: Callable[[Sequence[Image]], None] | None = None) -> None:
        self.batch = batch
        self.rounds_seen: list[list[int]] = []
        self.sources_seen: list[list[tuple[int, int]]] = []
        self.ended: list[tuple[int, int]] = []
        self._before = before

    def source_ended(self, source: int) -> None:
        """Notes the source, and how many images were answered until then."""
        self.ended.append((source, sum(map(len, self.rounds_seen))))

    def rounds(self, take: TakeFromSources) -> BatchResults:
        while taken := take(True):
            self.sources_seen.append([(one.source, one.number) for one in taken])
            images = [one.image for one in taken]
            if self._before is not None:
                self._before(images)
            self.rounds_seen.append([int(image[0, 0, 0]) for image in images])
            yield [[found(image, 0), nothing(image, 1)] for image in images]


def found(image: Image, index: int, box: Sequence[float] = (2, 3, 12, 13)) -> Detections:
    height, width = image.shape[:2]
    masks = np.zeros((1, height, width), bool)
    left, top, right, bottom = (max(0, int(side)) for side in box)
    masks[0, top:bottom, left:right] = True
    query = np.asarray([int(image[0, 0, 0])])
    return Detections(CLASSES[index].name, index, np.asarray([box], np.float32), np.ones(1, np.float32), masks, query)


def nothing(image: Image, index: int) -> Detections:
    masks = np.zeros((0, *image.shape[:2]), bool)
    none = np.zeros(0, np.float32)
    return Detections(CLASSES[index].name, index, none.reshape(0, 4), none, masks, np.zeros(0, np.int64))


class Listed(Source):
    """A file of given images; an exception among them is raised in its place."""

    def __init__(self, name: str, images: Iterable[Any], fps: float = 10.0) -> None:
        self.images = images
        self.given = 0
        super().__init__(name, fps, len(images) if isinstance(images, Sequence) else None)

    def read(self, problem: Problem) -> Frames:
        del problem
        for number, image in enumerate(self.images):
            if isinstance(image, BaseException):
                raise image
            self.given = number + 1
            yield frame_at(number, self.fps, image)


class Capture:
    """What OpenCV's capture looks like: gives what ``script`` yields; None is a failed read."""

    def __init__(self, script: Iterable[Image | None], opens: bool = True) -> None:
        self._script, self._opens = iter(script), opens
        self.released = Event()

    def isOpened(self) -> bool:
        return self._opens

    def get(self, _: int) -> float:
        return 10.0

    def read(self) -> tuple[bool, Image | None]:
        image = next(self._script, None)
        return image is not None, image

    def release(self) -> None:
        self.released.set()


def camera(name: str, captures: Iterable[Capture]) -> Camera:
    """A camera that opens the next of ``captures`` each time; none that opens once they are used up."""
    left = iter(captures)
    return Camera(name, 0, lambda _: next(left, Capture([], opens=False)))
