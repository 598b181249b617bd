"""Detects prompts on images with the four engines of one variant.

Contains the order of the parts and the batching of prompts and images. Independent of backends and file formats: an
engine has named inputs and outputs.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from threading import Lock

from sam3_runtime.core.closing import Closing
from sam3_runtime.core.errors import EngineError
from sam3_runtime.engines.running.base import AnyArray, Device, Engine
from sam3_runtime.engines.running.host import HostDevice
from sam3_runtime.engines.running.turns import Turns
from sam3_runtime.families.sam3.features import (
    Embedding,
    EncodedPrompt,
    Features,
    concatenate,
    decoder_calls,
    features_of,
    prompt_rows,
)
from sam3_runtime.families.sam3.parts import PartName
from sam3_runtime.families.sam3.postprocess import begin_detections
from sam3_runtime.families.sam3.prefetch import AnyPrompt, Batch, Prefetch, Request, StageHook, request_of
from sam3_runtime.families.sam3.prompts import Prompt, PromptError, as_prompt
from sam3_runtime.families.sam3.tokens import Tokenizer, box_rows
from sam3_runtime.imaging.postprocess import Detections
from sam3_runtime.imaging.preprocess import Image, check_image
from sam3_runtime.media.images import Take
from sam3_runtime.records.records import EngineRecord, VariantConfig

THRESHOLD = 0.3
"""Score that a detection must exceed, as in transformers (Meta's own processor takes 0.5)."""
_TEXT_CACHE_SIZE = 1024  # encoded texts, 32 KiB each


class Pipeline(Closing):
    """The engines of one variant, opened by :func:`sam3_runtime.load`. Use as a context manager, or :meth:`close` it.

    ``config`` and ``records`` are those of the variant; ``status`` is the verdict of the accuracy gate (``passed``,
    ``rejected``, ``failed`` or ``unverified``) and ``reason`` its explanation; ``engines`` are the opened parts and
    ``device`` is the device that they run on. A pipeline without the text or geometry encoder
    (:func:`sam3_runtime.load` with ``parts``) detects prompts that are already encoded (:meth:`encode`).

    Thread safety: :meth:`detect`, :meth:`stream`, :meth:`rounds` and :meth:`encode` may be called from several threads
    at once, and between two results of :meth:`stream` or :meth:`rounds`. ONNX Runtime runs them in parallel; on a GPU
    calls take turns, a batch each. Call :meth:`close` only when no call runs.
    """

    def __init__(
        self,
        config: VariantConfig,
        engines: dict[str, Engine],
        tokenizer: Tokenizer | None,
        status: str = "unverified",
        reason: str = "",
        device: Device | None = None,
    ) -> None:
        self.config = config
        self.engines = engines
        self.device = device or HostDevice()
        self._turns = Turns(concurrent=all(engine.concurrent for engine in engines.values()))
        self._tokenizer = tokenizer
        self.status = status
        self.reason = reason
        self._texts: OrderedDict[str, Embedding] = OrderedDict()
        self._texts_lock = Lock()

    @property
    def records(self) -> dict[str, EngineRecord]:
        """The records of the opened parts."""
        return {part: engine.record for part, engine in self.engines.items()}

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises :class:`EngineError` if the text encoder was not opened."""
        if self._tokenizer is None:
            raise self._not_opened("text-encoder")
        return self._tokenizer

    @property
    def batch(self) -> int:
        """The largest number of images that are encoded at once; :meth:`detect` accepts any number."""
        return self.engine("vision-encoder").limit("B")

    def detect(
        self,
        images: Sequence[Image],
        prompts: Sequence[AnyPrompt | str],
        *,
        threshold: float | Sequence[float] = THRESHOLD,
        top: int | None = None,
        stages: StageHook | None = None,
    ) -> list[list[Detections]]:
        """Detect every instance of each prompt on each image, and return ``result[image][prompt]``.

        ``images``: RGB uint8 [H, W, 3], any number, each of any size. ``prompts``: words, :class:`Prompt` with boxes in
        pixels of every image, or results of :meth:`encode`. Returned are scores above ``threshold`` (one for all
        prompts, or one for each), or with ``top`` that many best ones whatever their score. ``stages`` is called for
        each stage.

        Raises :class:`SourceError` for an invalid image, :class:`PromptError` for a box outside an image, and
        :class:`EngineError` if an engine fails.
        """
        return list(self.stream(images, prompts, threshold=threshold, top=top, stages=stages))

    def stream(
        self,
        images: Sequence[Image],
        prompts: Sequence[AnyPrompt | str],
        *,
        threshold: float | Sequence[float] = THRESHOLD,
        top: int | None = None,
        stages: StageHook | None = None,
    ) -> Iterator[list[Detections]]:
        """Yield the results of :meth:`detect` image by image; only one batch's features and masks are in memory."""
        request = request_of(prompts, threshold, top, stages)
        for image in images:
            check_image(image)
        for start in range(0, len(images), self.batch):
            results = self._decode_all(self._batch(images[start : start + self.batch], request), request)
            if not self._turns.concurrent:
                # Features are in the engines' own memory: no other call may run before this batch is complete.
                with self._turns.take():
                    results = iter(list(results))
            yield from results

    def rounds(
        self,
        take: Take,
        prompts: Sequence[AnyPrompt | str],
        *,
        threshold: float | Sequence[float] = THRESHOLD,
        top: int | None = None,
        stages: StageHook | None = None,
    ) -> Generator[list[list[Detections]], None, None]:
        """Yield ``result[image][prompt]`` of one batch after another, as :meth:`detect` returns it.

        ``take(wait)`` returns the next batch of at most :attr:`batch` images. An empty one ends the rounds if it may
        ``wait``, and otherwise means that none is available yet. On a GPU the next batch, if available, is started
        before the host finishes the current one. A call of another thread in between overwrites it: then it is started
        again, and prefetching pauses until there is no such call.
        """
        request = request_of(prompts, threshold, top, stages)
        own_turn = math.inf  # the number of the next turn, if no other call takes one
        while images := take(True):
            batch: Batch | None = self._batch(images, request)
            while batch is not None:
                with self._turns.take() as turn:
                    disturbed, own_turn = turn > own_turn, turn + 1
                    if disturbed:
                        batch.reset()
                    overlaps = self.device.queues and not disturbed
                    prefetch = Prefetch(take, lambda images: self._batch(images, request)) if overlaps else None
                    found = list(self._decode_all(batch, request, prefetch))
                batch = prefetch.batch if prefetch is not None else None
                yield found

    def _batch(self, images: Sequence[Image], request: Request) -> Batch:
        return Batch(images, self.preprocess, self.encode_images, request.stage)

    def _decode_all(
        self, batch: Batch, request: Request, prefetch: Prefetch | None = None
    ) -> Iterator[list[Detections]]:
        """Run the decoder and yield images when complete; ``prefetch`` starts during the last call.

        One call is in flight while the host finishes the one before.
        """
        sizes = batch.sizes
        features = batch.features
        with request.stage("prompt"):
            tokens = self.encode_prompts(request.prompts, sizes, features)
        calls = list(decoder_calls(features, tokens, self.engine("decoder").limit("P")))
        found: list[dict[int, Detections]] = [{} for _ in sizes]
        begun: list[tuple[int, int, Callable[[], Detections]]] = []
        given = 0

        def finish() -> None:
            if not begun:
                return
            with request.stage("postprocess"):
                for image, prompt, detections in begun:
                    found[image][prompt] = detections()
            begun.clear()

        for number, call in enumerate(calls, 1):
            with request.stage("decoder"):
                masks, others = self._start_decoder(call.features, call.tokens)
            finish()
            if prefetch is not None and number == len(calls):
                prefetch.preprocess()
            while given < len(found) and len(found[given]) == len(request.prompts):
                yield [found[given][prompt] for prompt in range(len(request.prompts))]
                found[given], given = {}, given + 1
            with request.stage("decoder"):
                outputs = {"pred_masks": masks, **self.device.fetch(others)}
            with request.stage("postprocess"):
                for row, (image, prompt) in enumerate(call.rows):
                    begun.append((image, prompt, self._begin(outputs, row, sizes[image], prompt, request)))
        if prefetch is not None:
            prefetch.encode()
        finish()
        for complete in found[given:]:
            yield [complete[prompt] for prompt in range(len(request.prompts))]

    def _begin(
        self, outputs: Mapping[str, AnyArray], row: int, size: tuple[int, int], prompt: int, request: Request
    ) -> Callable[[], Detections]:
        return begin_detections(
            outputs, row, size, prompt=request.prompts[prompt].name, prompt_index=prompt,
            threshold=request.thresholds[prompt], top=request.top, begin=self.device.begin_masks,
        )  # fmt: skip

    # --- the parts, one by one, also for verification and benchmark ---------------------------------------------------

    def preprocess(self, images: Sequence[Image]) -> AnyArray:
        """Return the input of the vision encoder, [B, 3, R, R], for at most :attr:`batch` images."""
        dtype = self.engine("vision-encoder").inputs[0].dtype
        return self.device.preprocess(images, self.config.resolution, self.config.preprocessing, dtype)

    def encode_images(self, pixels: AnyArray) -> Features:
        """Run the vision encoder on [B, 3, R, R], B at most :attr:`batch`: ``fpn_feat_0/1/2`` and ``fpn_pos_2``."""
        engine = self.engine("vision-encoder")
        return engine.infer(engine.cast({"images": pixels}))

    def encode_texts(self, texts: Sequence[str]) -> list[Embedding]:
        """Run the text encoder: features of 32 tokens for each text, cached. The engine is released afterwards."""
        with self._texts_lock:
            found = {text: self._texts[text] for text in texts if text in self._texts}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        if missing:
            found |= self._run_text_encoder(missing)
        with self._texts_lock:
            for text, tokens in found.items():
                self._texts[text] = tokens
                self._texts.move_to_end(text)  # the least recently used is dropped first
            while len(self._texts) > _TEXT_CACHE_SIZE:
                self._texts.popitem(last=False)
        return [found[text] for text in texts]

    def _run_text_encoder(self, texts: Sequence[str]) -> dict[str, Embedding]:
        engine = self.engine("text-encoder")
        limit = engine.limit("P")
        found: dict[str, Embedding] = {}
        for start in range(0, len(texts), limit):
            chunk = texts[start : start + limit]
            tokens = self.tokenizer(chunk)
            feeds = engine.cast({"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask})
            outputs = self.device.fetch(engine.infer(feeds))
            rows = zip(outputs["text_features"], outputs["text_mask"], strict=True)
            found |= {
                text: Embedding(features.copy(), mask.copy())
                for text, (features, mask) in zip(chunk, rows, strict=True)
            }
        engine.release()
        return found

    def encode_boxes(self, prompts: Sequence[Prompt], size: tuple[int, int], features: Features) -> list[Embedding]:
        """Run the geometry encoder on the boxes of each prompt (at least one), on an image of ``size`` (height, width).

        ``features`` are those of the image (N = 1). A prompt of n boxes has n + 1 valid tokens.
        """
        engine = self.engine("geometry-encoder")
        limit = engine.limit("P")
        tokens: list[Embedding] = []
        for start in range(0, len(prompts), limit):
            rows = box_rows(prompts[start : start + limit], size)
            feeds = {**features, "input_boxes": rows.boxes, "input_boxes_labels": rows.labels}
            outputs = self.device.fetch(engine.infer(engine.cast(feeds)))
            tokens += map(Embedding, outputs["geometry_features"], outputs["geometry_mask"])
        return tokens

    def encode_prompts(
        self, prompts: Sequence[AnyPrompt], sizes: Sequence[tuple[int, int]], features: Features
    ) -> list[list[Embedding]]:
        """Return the features of each prompt on each image, ``result[image][prompt]``: text first, then any boxes.

        The geometry encoder runs only for prompts with boxes, as in transformers.
        """
        texts = iter(self.encode_texts([prompt.words for prompt in prompts if isinstance(prompt, Prompt)]))
        known = [next(texts) if isinstance(prompt, Prompt) else prompt.tokens for prompt in prompts]
        boxed = {index: prompt for index, prompt in enumerate(prompts) if isinstance(prompt, Prompt) and prompt.boxes}
        result = []
        for image, size in enumerate(sizes):
            tokens = list(known)
            if boxed:
                shown = self.encode_boxes(list(boxed.values()), size, features_of(features, image, image + 1))
                for index, boxes in zip(boxed, shown, strict=True):
                    tokens[index] = concatenate(known[index], boxes)
            result.append(tokens)
        return result

    def encode(self, prompts: Sequence[Prompt | str], image: Image | None = None) -> list[EncodedPrompt]:
        """Encode prompts once, to :meth:`detect` them on any image.

        Boxes are in pixels of ``image`` (RGB uint8 [H, W, 3]), which contains the examples: the geometry encoder reads
        its features, so the result is valid for this resolution only. The features of a prompt do not depend on the
        others. Raises :class:`PromptError` for boxes without an image, or outside it.
        """
        normal = [as_prompt(prompt) for prompt in prompts]
        if image is not None:
            check_image(image)
        elif any(prompt.boxes for prompt in normal):
            raise PromptError("a prompt has boxes, but no image was given", "give the image that contains the boxes")
        with self._turns.take():
            tokens = self.encode_texts([prompt.words for prompt in normal])
            if image is not None:
                features = self.encode_images(self.preprocess([image]))
                size = image.shape[0], image.shape[1]
                # One by one: together, the shorter ones would be padded to the longest.
                tokens = [self.encode_prompts([prompt], [size], features)[0][0] for prompt in normal]
        return [EncodedPrompt(prompt.name, one) for prompt, one in zip(normal, tokens, strict=True)]

    def decode(self, features: Features, tokens: Sequence[Embedding]) -> dict[str, AnyArray]:
        """Run the decoder on P prompts and the features of one image, or of one image each; shorter prompts are padded.

        Shapes are in ``parts.py``; P is the number of ``tokens``.

        Outputs other than ``pred_masks``, which stays on the device, are transferred to the host.
        """
        masks, others = self._start_decoder(features, tokens)
        return {"pred_masks": masks, **self.device.fetch(others)}

    def _start_decoder(
        self, features: Features, tokens: Sequence[Embedding]
    ) -> tuple[AnyArray, Mapping[str, AnyArray]]:
        """``pred_masks``, and the other outputs, on the device, which may not have finished."""
        engine = self.engine("decoder")
        feeds = {**features, **prompt_rows(tokens)}
        outputs = dict(engine.infer(engine.cast(feeds)))
        return outputs.pop("pred_masks"), outputs

    def engine(self, part: PartName) -> Engine:
        """Return the engine of ``part``. Raises :class:`EngineError` if it was not opened."""
        if part not in self.engines:
            raise self._not_opened(part)
        return self.engines[part]

    def _not_opened(self, part: PartName) -> EngineError:
        return EngineError(
            f"the {part} of {self.config.variant} was not opened, but is needed here",
            "open all parts: sam3_runtime.load(directory); only a prompt bank needs just vision-encoder and decoder",
        )

    def close(self) -> None:
        """Free the engines and the cached texts. Closing twice does nothing."""
        self._texts.clear()
        for engine in self.engines.values():
            engine.close()
        self.device.close()
