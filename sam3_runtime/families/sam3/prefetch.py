"""Batches of images through the vision encoder, with one batch of prefetch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from sam3_runtime.core.wording import counted
from sam3_runtime.engines.running.base import AnyArray
from sam3_runtime.families.sam3.features import EncodedPrompt, Features
from sam3_runtime.families.sam3.prompts import Prompt, PromptError, as_prompt
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.media.images import Take

Stage = Literal["preprocess", "vision", "prompt", "decoder", "postprocess"]
StageHook = Callable[[Stage], AbstractContextManager[object]]
"""Called with the name of a stage, returns the context that the stage runs in, such as a stopwatch. On a GPU a stage
can end before its work does: call :meth:`Device.synchronize` to measure it."""

AnyPrompt = Prompt | EncodedPrompt
"""A prompt to be encoded for each image, or an encoded one."""


@dataclass(frozen=True)
class Request:
    """The arguments of :meth:`Pipeline.detect`, one threshold for each prompt."""

    prompts: Sequence[AnyPrompt]
    thresholds: Sequence[float]
    top: int | None
    stage: StageHook


def request_of(
    prompts: Sequence[AnyPrompt | str], threshold: float | Sequence[float], top: int | None, stages: StageHook | None
) -> Request:
    """Check and normalise the arguments. Raises :class:`PromptError` for another number of thresholds than prompts."""
    thresholds = list(threshold) if isinstance(threshold, Sequence) else [threshold] * len(prompts)
    if len(thresholds) != len(prompts):
        raise PromptError(
            f"{counted(len(thresholds), 'threshold')} for {counted(len(prompts), 'prompt')}",
            "give one for all prompts, or one for each",
        )
    normal = [as_prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    return Request(normal, thresholds, top, stages or (lambda _: nullcontext()))


@dataclass
class Batch:
    """Images that are encoded together; each step runs once."""

    images: Sequence[Image]
    make_pixels: Callable[[Sequence[Image]], AnyArray]
    make_features: Callable[[AnyArray], Features]
    stage: StageHook

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each image, in pixels."""
        return [(image.shape[0], image.shape[1]) for image in self.images]

    @cached_property
    def pixels(self) -> AnyArray:
        """The input of the vision encoder."""
        with self.stage("preprocess"):
            return self.make_pixels(self.images)

    @cached_property
    def features(self) -> Features:
        """The output of the vision encoder."""
        pixels = self.pixels
        with self.stage("vision"):
            return self.make_features(pixels)

    def reset(self) -> None:
        """Discard pixels and features, which another call of the engines has overwritten."""
        self.__dict__.pop("pixels", None)
        self.__dict__.pop("features", None)


class Prefetch:
    """The next batch, started while the device runs the last decoder call of the current one; None if not there yet.

    Its images are transferred behind that call, so that the device continues with them at once. The encoder is started
    after the masks of that call are requested; otherwise these would wait for it.
    """

    def __init__(self, take: Take, make: Callable[[Sequence[Image]], Batch]) -> None:
        self._take, self._make = take, make
        self.batch: Batch | None = None

    def preprocess(self) -> None:
        """Take the next images, if they are there, and preprocess them."""
        if images := self._take(False):
            self.batch = self._make(images)
            _ = self.batch.pixels  # computes them

    def encode(self) -> None:
        """Start the vision encoder on the next images, if they are there."""
        if self.batch is None:
            self.preprocess()
        if self.batch is not None:
            _ = self.batch.features  # computes them
