"""Finds things: pictures and prompts in, detections out, through the four engines of one variant.

Knows the order of the parts and how prompts and pictures are arranged into their batches. Knows no backend, no file
format and no network: an engine is something with named inputs and outputs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import Lock
from types import TracebackType
from typing import Literal

import numpy as np
from typing_extensions import Self

from sam3_runtime.backends.base import AnyArray, Array, Device, Engine
from sam3_runtime.backends.host import HostDevice
from sam3_runtime.config import EngineRecord, VariantConfig
from sam3_runtime.contract import PartName
from sam3_runtime.postprocess import Detections, begin_detections
from sam3_runtime.preprocess import Image, check_image
from sam3_runtime.prompts import Prompt, Tokenizer, as_prompt, box_rows

THRESHOLD = 0.3
"""Score that a detection must exceed, as in transformers (Meta's own processor takes 0.5)."""
_TEXTS_KEPT = 1024  # encoded prompts remembered, 32 KiB each

Stage = Literal["preprocess", "vision", "prompt", "decoder", "postprocess"]
StageHook = Callable[[Stage], AbstractContextManager[object]]
"""Called with a stage's name, gives the context that the stage runs in: a stopwatch, for example. On a GPU a stage may
end before its work does: who measures calls :meth:`Device.synchronize`."""
Features = Mapping[str, AnyArray]
"""What the vision encoder says of B images, where it said it: on a GPU its next run writes it again."""


def _no_hook(_: Stage) -> AbstractContextManager[object]:
    return nullcontext()


@dataclass(frozen=True)
class Tokens:
    """What the decoder reads of one prompt: features [L, C] and which of them count, bool [L]."""

    features: Array
    mask: Array


@dataclass(frozen=True)
class _Job:
    """What :meth:`Pipeline.detect` was asked for."""

    prompts: Sequence[Prompt]
    threshold: float
    top: int | None
    stage: StageHook


class Pipeline:
    """The engines of one variant, opened by :func:`sam3_runtime.load`. A context manager; else :meth:`close` it.

    ``config`` and ``records`` are the variant's own; ``status`` is the accuracy gate's verdict (``passed``,
    ``rejected``, ``failed`` or ``unverified``) and ``reason`` what it says; ``engines`` holds the opened parts and
    ``device`` what they run on.

    Thread safety: :meth:`detect` may be called from several threads at once. ONNX Runtime then really runs side by
    side; on a GPU calls take turns, a batch each. :meth:`close` only when no call runs.
    """

    def __init__(
        self,
        config: VariantConfig,
        engines: dict[PartName, Engine],
        tokenizer: Tokenizer,
        status: str = "unverified",
        reason: str = "",
        device: Device | None = None,
    ) -> None:
        self.config = config
        self.engines = engines
        self.device = device or HostDevice()
        self._turn = nullcontext() if all(engine.concurrent for engine in engines.values()) else Lock()
        self.tokenizer = tokenizer
        self.status = status
        self.reason = reason
        self._texts: OrderedDict[str, Tokens] = OrderedDict()
        self._texts_lock = Lock()

    @property
    def records(self) -> dict[PartName, EngineRecord]:
        return {part: engine.record for part, engine in self.engines.items()}

    @property
    def batch(self) -> int:
        """The most pictures that are encoded at once; :meth:`detect` takes any number."""
        return self.engines["vision-encoder"].limit("B")

    def detect(
        self,
        images: Sequence[Image],
        prompts: Sequence[Prompt | str],
        *,
        threshold: float = THRESHOLD,
        top: int | None = None,
        stages: StageHook | None = None,
    ) -> list[list[Detections]]:
        """Find every instance of each prompt on each image.

        ``images``: RGB uint8 [H, W, 3], any number, each of any size. ``prompts``: words or :class:`Prompt`; boxes
        are pixels of each image given. Kept is what scores above ``threshold``, or, where ``top`` is given, that many
        best ones whatever their score. Returns ``result[image][prompt]``. ``stages`` sees each stage of the work.

        Raises :class:`SourceError` for what is no image, :class:`PromptError` for a box that is not on an image,
        :class:`EngineError` when an engine fails.
        """
        return list(self.stream(images, prompts, threshold=threshold, top=top, stages=stages))

    def stream(
        self,
        images: Sequence[Image],
        prompts: Sequence[Prompt | str],
        *,
        threshold: float = THRESHOLD,
        top: int | None = None,
        stages: StageHook | None = None,
    ) -> Iterator[list[Detections]]:
        """As :meth:`detect`, an image at a time: only one batch's features and masks are held at once."""
        job = _Job([as_prompt(prompt) for prompt in prompts], threshold, top, stages or _no_hook)
        for image in images:
            check_image(image)
        for start in range(0, len(images), self.batch):
            batch = images[start : start + self.batch]
            if isinstance(self._turn, nullcontext):
                yield from self._detect_batch(batch, job)
            else:
                # Features lie in the engines' own memory: nobody else may run before this batch is through.
                with self._turn:
                    found = list(self._detect_batch(batch, job))
                yield from found

    def _detect_batch(self, images: Sequence[Image], job: _Job) -> Iterator[list[Detections]]:
        """Detect on at most :attr:`batch` images."""
        with job.stage("preprocess"):
            pixels = self.preprocess(images)
        with job.stage("vision"):
            features = self.encode_images(pixels)
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        with job.stage("prompt"):
            tokens = self.encode_prompts(job.prompts, sizes, features)
        yield from self._decode_all(_calls(features, tokens, self.engines["decoder"].limit("P")), sizes, job)

    def _decode_all(
        self, calls: Iterable[_Call], sizes: Sequence[tuple[int, int]], job: _Job
    ) -> Iterator[list[Detections]]:
        """Make the decoder's calls, one in flight while the host finishes the last; an image is given when it is
        complete."""
        found: list[dict[int, Detections]] = [{} for _ in sizes]
        begun: list[tuple[int, int, Callable[[], Detections]]] = []
        given = 0

        def finish() -> None:
            if not begun:
                return
            with job.stage("postprocess"):
                for image, prompt, detections in begun:
                    found[image][prompt] = detections()
            begun.clear()

        for call in calls:
            with job.stage("decoder"):
                masks, others = self._start_decoder(call.features, call.tokens)
            finish()
            while given < len(found) and len(found[given]) == len(job.prompts):
                yield [found[given][prompt] for prompt in range(len(job.prompts))]
                found[given], given = {}, given + 1
            with job.stage("decoder"):
                outputs = {"pred_masks": masks, **self.device.fetch(others)}
            with job.stage("postprocess"):
                for row, (image, prompt) in enumerate(call.places):
                    begun.append((image, prompt, self._begin(outputs, row, sizes[image], prompt, job)))
        finish()
        for complete in found[given:]:
            yield [complete[prompt] for prompt in range(len(job.prompts))]

    def _begin(
        self, outputs: Mapping[str, AnyArray], row: int, size: tuple[int, int], prompt: int, job: _Job
    ) -> Callable[[], Detections]:
        return begin_detections(
            outputs, row, size, prompt=job.prompts[prompt].name, prompt_index=prompt, threshold=job.threshold,
            top=job.top, begin=self.device.begin_masks,
        )  # fmt: skip

    # --- the parts, one by one: verification and benchmark call them too ----------------------------------------------

    def preprocess(self, images: Sequence[Image]) -> AnyArray:
        """Images, RGB uint8 [H, W, 3] of any size each, at most :attr:`batch` → what the vision encoder takes."""
        dtype = self.engines["vision-encoder"].inputs[0].dtype
        return self.device.preprocess(images, self.config.resolution, self.config.preprocessing, dtype)

    def encode_images(self, pixels: AnyArray) -> Features:
        """Vision encoder: [B, 3, R, R], B at most :attr:`batch` → ``fpn_feat_0/1/2`` and ``fpn_pos_2``."""
        engine = self.engines["vision-encoder"]
        return engine.infer(engine.cast({"images": pixels}))

    def encode_texts(self, texts: Sequence[str]) -> list[Tokens]:
        """Text encoder: one :class:`Tokens` of 32 for each text. Texts are remembered, and the engine is released."""
        with self._texts_lock:
            found = {text: self._texts[text] for text in texts if text in self._texts}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        engine = self.engines["text-encoder"]
        limit = engine.limit("P")
        for start in range(0, len(missing), limit):
            chunk = missing[start : start + limit]
            tokens = self.tokenizer(chunk)
            feeds = engine.cast({"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask})
            outputs = self.device.fetch(engine.infer(feeds))
            rows = zip(outputs["text_features"], outputs["text_mask"], strict=True)
            found |= {
                text: Tokens(features.copy(), mask.copy()) for text, (features, mask) in zip(chunk, rows, strict=True)
            }
        if missing:
            engine.release()
        with self._texts_lock:
            self._texts.update(found)
            while len(self._texts) > _TEXTS_KEPT:
                self._texts.popitem(last=False)
        return [found[text] for text in texts]

    def encode_boxes(self, prompts: Sequence[Prompt], size: tuple[int, int], features: Features) -> list[Tokens]:
        """Geometry encoder: the boxes of each prompt (which has some) on one image of ``size`` (height, width).

        ``features`` are that image's own (N = 1). A prompt of n boxes has n + 1 valid tokens.
        """
        engine = self.engines["geometry-encoder"]
        limit = engine.limit("P")
        tokens: list[Tokens] = []
        for start in range(0, len(prompts), limit):
            rows = box_rows(prompts[start : start + limit], size)
            feeds = {**features, "input_boxes": rows.boxes, "input_boxes_labels": rows.labels}
            outputs = self.device.fetch(engine.infer(engine.cast(feeds)))
            tokens += map(Tokens, outputs["geometry_features"], outputs["geometry_mask"])
        return tokens

    def encode_prompts(
        self, prompts: Sequence[Prompt], sizes: Sequence[tuple[int, int]], features: Features
    ) -> list[list[Tokens]]:
        """The tokens of each prompt on each image, ``result[image][prompt]``: text first, then boxes where there are.

        The geometry encoder runs only for prompts with boxes, as in transformers.
        """
        texts = self.encode_texts([prompt.words for prompt in prompts])
        boxed = [index for index, prompt in enumerate(prompts) if prompt.boxes]
        result = []
        for image, size in enumerate(sizes):
            tokens = list(texts)
            if boxed:
                shown = self.encode_boxes([prompts[i] for i in boxed], size, features_of(features, image, image + 1))
                for index, boxes in zip(boxed, shown, strict=True):
                    tokens[index] = _joined(texts[index], boxes)
            result.append(tokens)
        return result

    def decode(self, features: Features, tokens: Sequence[Tokens]) -> dict[str, AnyArray]:
        """Decoder: P prompts on the features of one image, or of one image each. Shorter prompts are padded.

        All but ``pred_masks``, which stays where it is, comes to the host.
        """
        masks, others = self._start_decoder(features, tokens)
        return {"pred_masks": masks, **self.device.fetch(others)}

    def _start_decoder(self, features: Features, tokens: Sequence[Tokens]) -> tuple[AnyArray, Mapping[str, AnyArray]]:
        """``pred_masks``, and the other outputs, wherever they are made: a GPU may still be at it."""
        engine = self.engines["decoder"]
        longest = max(len(one.mask) for one in tokens)
        channels = tokens[0].features.shape[1]
        prompt_features = np.zeros((len(tokens), longest, channels), tokens[0].features.dtype)
        prompt_mask = np.zeros((len(tokens), longest), np.bool_)
        for row, one in enumerate(tokens):
            prompt_features[row, : len(one.mask)] = one.features
            prompt_mask[row, : len(one.mask)] = one.mask
        feeds = {**features, "prompt_features": prompt_features, "prompt_mask": prompt_mask}
        outputs = dict(engine.infer(engine.cast(feeds)))
        return outputs.pop("pred_masks"), outputs

    def close(self) -> None:
        """Free the engines. Closing twice does nothing."""
        for engine in self.engines.values():
            engine.close()
        self.device.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class _Call:
    """One run of the decoder: features of one image or of one for each row, and the image and prompt of each row."""

    features: Features
    tokens: list[Tokens]
    places: list[tuple[int, int]]


def _calls(features: Features, tokens: list[list[Tokens]], limit: int) -> Iterator[_Call]:
    """All prompts of an image together (N = 1: its features are there once), or all images of a prompt (N = P).

    Either way every row is an image and a prompt: the fewer calls, the better; on a tie the first reads less.
    """
    images, prompts = len(tokens), len(tokens[0])
    by_image = [(image, chunk) for image in range(images) for chunk in _chunks(prompts, limit)]
    by_prompt = [(prompt, chunk) for prompt in range(prompts) for chunk in _chunks(images, limit)]
    if len(by_image) <= len(by_prompt):
        for image, chunk in by_image:
            places = [(image, prompt) for prompt in chunk]
            yield _Call(features_of(features, image, image + 1), [tokens[image][prompt] for prompt in chunk], places)
    else:
        for prompt, chunk in by_prompt:
            places = [(image, prompt) for image in chunk]
            yield _Call(
                features_of(features, chunk.start, chunk.stop), [tokens[image][prompt] for image in chunk], places
            )


def _chunks(count: int, limit: int) -> list[range]:
    return [range(start, min(start + limit, count)) for start in range(0, count, limit)]


def features_of(features: Features, start: int, stop: int) -> Features:
    """The features of some images, as views. The position table has one row for all."""
    return {name: array if name == "fpn_pos_2" else array[start:stop] for name, array in features.items()}


def _joined(text: Tokens, boxes: Tokens) -> Tokens:
    features = np.concatenate([text.features, boxes.features.astype(text.features.dtype, copy=False)])
    return Tokens(features, np.concatenate([text.mask, boxes.mask]))
