"""A batch of images on its way through the vision encoder, and the next one, begun while the device is at the last.

Knows the order of the steps; what they do is the pipeline's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

from sam3_runtime.core.wording import counted
from sam3_runtime.engines.running.base import AnyArray
from sam3_runtime.families.sam3.features import EncodedPrompt, Features
from sam3_runtime.families.sam3.prompts import Prompt, PromptError, as_prompt
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.streams.images import Take

Stage = Literal["preprocess", "vision", "prompt", "decoder", "postprocess"]
StageHook = Callable[[Stage], AbstractContextManager[object]]
"""Called with a stage's name, gives the context that the stage runs in: a stopwatch, for example. On a GPU a stage may
end before its work does: who measures calls :meth:`Device.synchronize`."""

Asked = Prompt | EncodedPrompt
"""A prompt to be encoded for each image, or one whose tokens are there."""


def _no_hook(_: Stage) -> AbstractContextManager[object]:
    return nullcontext()


@dataclass(frozen=True)
class Job:
    """What :meth:`Pipeline.detect` was asked for."""

    prompts: Sequence[Asked]
    thresholds: Sequence[float]
    top: int | None
    stage: StageHook


def job_of(
    prompts: Sequence[Asked | str], threshold: float | Sequence[float], top: int | None, stages: StageHook | None
) -> Job:
    thresholds = list(threshold) if isinstance(threshold, Sequence) else [threshold] * len(prompts)
    if len(thresholds) != len(prompts):
        raise PromptError(
            f"{counted(len(thresholds), 'threshold')} for {counted(len(prompts), 'prompt')}",
            "one for all, or one for each",
        )
    asked = [as_prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    return Job(asked, thresholds, top, stages or _no_hook)


class Batch:
    """As many images as the vision encoder takes at once, or fewer; each step is done once. ``sizes``: (height, width)
    of each."""

    def __init__(
        self,
        images: Sequence[Image],
        preprocess: Callable[[Sequence[Image]], AnyArray],
        encode: Callable[[AnyArray], Features],
        stage: StageHook,
    ) -> None:
        self._images, self._preprocess, self._encode, self._stage = images, preprocess, encode, stage
        self._pixels: AnyArray | None = None
        self._features: Features | None = None
        self.sizes = [(image.shape[0], image.shape[1]) for image in images]

    def preprocess(self) -> AnyArray:
        if self._pixels is None:
            with self._stage("preprocess"):
                self._pixels = self._preprocess(self._images)
        return self._pixels

    def encode(self) -> Features:
        if self._features is None:
            pixels = self.preprocess()
            with self._stage("vision"):
                self._features = self._encode(pixels)
        return self._features

    def begin_again(self) -> None:
        """Somebody else has run the engines, and so has written over what was made of the images."""
        self._pixels = self._features = None


class Ahead:
    """The next batch, begun while the device is at the last call of the one before; None where there is none yet.

    Its images are handed over behind that call, so that the device goes on with them at once. The encoder is started
    behind the masks of that call, which would wait for it otherwise.
    """

    def __init__(self, take: Take, make: Callable[[Sequence[Image]], Batch]) -> None:
        self._take, self._make = take, make
        self.batch: Batch | None = None

    def preprocess(self) -> None:
        images = self._take(False)
        if images:
            self.batch = self._make(images)
            self.batch.preprocess()

    def encode(self) -> None:
        if self.batch is None:
            self.preprocess()
        if self.batch is not None:
            self.batch.encode()
