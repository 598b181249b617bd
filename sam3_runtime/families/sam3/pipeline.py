"""Finds things: pictures and prompts in, detections out, through the four engines of one variant.

Knows the order of the parts and how prompts and pictures are arranged into their batches. Knows no backend, no file
format and no network: an engine is something with named inputs and outputs.
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
from sam3_runtime.families.sam3.batches import Ahead, Asked, Batch, Job, StageHook, job_of
from sam3_runtime.families.sam3.features import (
    EncodedPrompt,
    Features,
    Tokens,
    arrange,
    features_of,
    joined,
    prompt_rows,
)
from sam3_runtime.families.sam3.parts import PartName
from sam3_runtime.families.sam3.postprocess import begin_detections
from sam3_runtime.families.sam3.prompts import Prompt, PromptError, Tokenizer, as_prompt, box_rows
from sam3_runtime.imaging.postprocess import Detections
from sam3_runtime.imaging.preprocess import Image, check_image
from sam3_runtime.records.records import EngineRecord, VariantConfig
from sam3_runtime.streams.images import Take

THRESHOLD = 0.3
"""Score that a detection must exceed, as in transformers (Meta's own processor takes 0.5)."""
_TEXTS_KEPT = 1024  # encoded prompts remembered, 32 KiB each


class Pipeline(Closing):
    """The engines of one variant, opened by :func:`sam3_runtime.load`. A context manager; else :meth:`close` it.

    ``config`` and ``records`` are the variant's own; ``status`` is the accuracy gate's verdict (``passed``,
    ``rejected``, ``failed`` or ``unverified``) and ``reason`` what it says; ``engines`` holds the opened parts and
    ``device`` what they run on. A pipeline that was opened without the text or geometry encoder
    (:func:`sam3_runtime.load` with ``parts``) finds prompts that were encoded before (:meth:`encode`).

    Thread safety: :meth:`detect`, :meth:`stream`, :meth:`rounds` and :meth:`encode` may be called from several threads
    at once, and between two results of :meth:`stream` or :meth:`rounds`. ONNX Runtime then really runs side by side; on
    a GPU calls take turns, a batch each. :meth:`close` only when no call runs.
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
        self._texts: OrderedDict[str, Tokens] = OrderedDict()
        self._texts_lock = Lock()

    @property
    def records(self) -> dict[str, EngineRecord]:
        return {part: engine.record for part, engine in self.engines.items()}

    @property
    def tokenizer(self) -> Tokenizer:
        """What texts become token numbers with; :class:`EngineError` where the text encoder was not opened."""
        if self._tokenizer is None:
            raise self._not_opened("text-encoder")
        return self._tokenizer

    @property
    def batch(self) -> int:
        """The most pictures that are encoded at once; :meth:`detect` takes any number."""
        return self.engine("vision-encoder").limit("B")

    def detect(
        self,
        images: Sequence[Image],
        prompts: Sequence[Asked | str],
        *,
        threshold: float | Sequence[float] = THRESHOLD,
        top: int | None = None,
        stages: StageHook | None = None,
    ) -> list[list[Detections]]:
        """Find every instance of each prompt on each image.

        ``images``: RGB uint8 [H, W, 3], any number, each of any size. ``prompts``: words, :class:`Prompt`, whose
        boxes are pixels of each image given, or what :meth:`encode` gave. Kept is what scores above ``threshold`` (one
        for all, or one for each prompt), or, where ``top`` is given, that many best ones whatever their score. Returns
        ``result[image][prompt]``. ``stages`` sees each stage of the work.

        Raises :class:`SourceError` for what is no image, :class:`PromptError` for a box that is not on an image,
        :class:`EngineError` when an engine fails.
        """
        return list(self.stream(images, prompts, threshold=threshold, top=top, stages=stages))

    def stream(
        self,
        images: Sequence[Image],
        prompts: Sequence[Asked | str],
        *,
        threshold: float | Sequence[float] = THRESHOLD,
        top: int | None = None,
        stages: StageHook | None = None,
    ) -> Iterator[list[Detections]]:
        """As :meth:`detect`, an image at a time: only one batch's features and masks are held at once."""
        job = job_of(prompts, threshold, top, stages)
        for image in images:
            check_image(image)
        for start in range(0, len(images), self.batch):
            batch = images[start : start + self.batch]
            if self._turns.concurrent:
                yield from self._detect_batch(batch, job)
            else:
                # Features lie in the engines' own memory: nobody else may run before this batch is through.
                with self._turns.take():
                    found = list(self._detect_batch(batch, job))
                yield from found

    def rounds(
        self,
        take: Take,
        prompts: Sequence[Asked | str],
        *,
        threshold: float | Sequence[float] = THRESHOLD,
        top: int | None = None,
        stages: StageHook | None = None,
    ) -> Generator[list[list[Detections]], None, None]:
        """As :meth:`detect` on one batch after another: ``result[image][prompt]`` of each.

        ``take(wait)`` gives the next batch of at most :attr:`batch` images: where it may ``wait``, none means that
        there will be none; where it may not, that there is none yet. On a GPU the next batch is begun, if it is there,
        before the host finishes the last. Whoever detects in between writes over what was begun: it is begun again, and
        nothing is begun ahead until nobody comes in between.
        """
        job = job_of(prompts, threshold, top, stages)
        own_turn = math.inf  # the number of the next turn, where nobody comes in between
        while images := take(True):
            batch: Batch | None = self._batch(images, job)
            while batch is not None:
                with self._turns.take() as turn:
                    disturbed, own_turn = turn > own_turn, turn + 1
                    if disturbed:
                        batch.begin_again()
                    overlaps = self.device.queues and not disturbed
                    ahead = Ahead(take, lambda images: self._batch(images, job)) if overlaps else None
                    found = list(self._decode_all(batch, job, ahead))
                batch = ahead.batch if ahead is not None else None
                yield found

    def _batch(self, images: Sequence[Image], job: Job) -> Batch:
        return Batch(images, self.preprocess, self.encode_images, job.stage)

    def _detect_batch(self, images: Sequence[Image], job: Job) -> Iterator[list[Detections]]:
        """Detect on at most :attr:`batch` images."""
        yield from self._decode_all(self._batch(images, job), job)

    def _decode_all(self, batch: Batch, job: Job, ahead: Ahead | None = None) -> Iterator[list[Detections]]:
        """Make the decoder's calls, one in flight while the host finishes the last; an image is given when it is
        complete. With the last call in flight the batch ``ahead`` is begun."""
        sizes = batch.sizes
        features = batch.encode()
        with job.stage("prompt"):
            tokens = self.encode_prompts(job.prompts, sizes, features)
        calls = list(arrange(features, tokens, self.engine("decoder").limit("P")))
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

        for number, call in enumerate(calls, 1):
            with job.stage("decoder"):
                masks, others = self._start_decoder(call.features, call.tokens)
            finish()
            if ahead is not None and number == len(calls):
                ahead.preprocess()
            while given < len(found) and len(found[given]) == len(job.prompts):
                yield [found[given][prompt] for prompt in range(len(job.prompts))]
                found[given], given = {}, given + 1
            with job.stage("decoder"):
                outputs = {"pred_masks": masks, **self.device.fetch(others)}
            with job.stage("postprocess"):
                for row, (image, prompt) in enumerate(call.places):
                    begun.append((image, prompt, self._begin(outputs, row, sizes[image], prompt, job)))
        if ahead is not None:
            ahead.encode()
        finish()
        for complete in found[given:]:
            yield [complete[prompt] for prompt in range(len(job.prompts))]

    def _begin(
        self, outputs: Mapping[str, AnyArray], row: int, size: tuple[int, int], prompt: int, job: Job
    ) -> Callable[[], Detections]:
        return begin_detections(
            outputs, row, size, prompt=job.prompts[prompt].name, prompt_index=prompt,
            threshold=job.thresholds[prompt], top=job.top, begin=self.device.begin_masks,
        )  # fmt: skip

    # --- the parts, one by one: verification and benchmark call them too ----------------------------------------------

    def preprocess(self, images: Sequence[Image]) -> AnyArray:
        """Images, RGB uint8 [H, W, 3] of any size each, at most :attr:`batch` → what the vision encoder takes."""
        dtype = self.engine("vision-encoder").inputs[0].dtype
        return self.device.preprocess(images, self.config.resolution, self.config.preprocessing, dtype)

    def encode_images(self, pixels: AnyArray) -> Features:
        """Vision encoder: [B, 3, R, R], B at most :attr:`batch` → ``fpn_feat_0/1/2`` and ``fpn_pos_2``."""
        engine = self.engine("vision-encoder")
        return engine.infer(engine.cast({"images": pixels}))

    def encode_texts(self, texts: Sequence[str]) -> list[Tokens]:
        """Text encoder: one :class:`Tokens` of 32 for each text. Texts are remembered, and the engine is released."""
        with self._texts_lock:
            found = {text: self._texts[text] for text in texts if text in self._texts}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        if missing:
            found |= self._run_text_encoder(missing)
        with self._texts_lock:
            for text, tokens in found.items():
                self._texts[text] = tokens
                self._texts.move_to_end(text)  # the one that was not asked for the longest is forgotten first
            while len(self._texts) > _TEXTS_KEPT:
                self._texts.popitem(last=False)
        return [found[text] for text in texts]

    def _run_text_encoder(self, texts: Sequence[str]) -> dict[str, Tokens]:
        engine = self.engine("text-encoder")
        limit = engine.limit("P")
        found: dict[str, Tokens] = {}
        for start in range(0, len(texts), limit):
            chunk = texts[start : start + limit]
            tokens = self.tokenizer(chunk)
            feeds = engine.cast({"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask})
            outputs = self.device.fetch(engine.infer(feeds))
            rows = zip(outputs["text_features"], outputs["text_mask"], strict=True)
            found |= {
                text: Tokens(features.copy(), mask.copy()) for text, (features, mask) in zip(chunk, rows, strict=True)
            }
        engine.release()
        return found

    def encode_boxes(self, prompts: Sequence[Prompt], size: tuple[int, int], features: Features) -> list[Tokens]:
        """Geometry encoder: the boxes of each prompt (which has some) on one image of ``size`` (height, width).

        ``features`` are that image's own (N = 1). A prompt of n boxes has n + 1 valid tokens.
        """
        engine = self.engine("geometry-encoder")
        limit = engine.limit("P")
        tokens: list[Tokens] = []
        for start in range(0, len(prompts), limit):
            rows = box_rows(prompts[start : start + limit], size)
            feeds = {**features, "input_boxes": rows.boxes, "input_boxes_labels": rows.labels}
            outputs = self.device.fetch(engine.infer(engine.cast(feeds)))
            tokens += map(Tokens, outputs["geometry_features"], outputs["geometry_mask"])
        return tokens

    def encode_prompts(
        self, prompts: Sequence[Asked], sizes: Sequence[tuple[int, int]], features: Features
    ) -> list[list[Tokens]]:
        """The tokens of each prompt on each image, ``result[image][prompt]``: text first, then boxes where there are.

        The geometry encoder runs only for prompts with boxes, as in transformers; for encoded prompts nothing does.
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
                    tokens[index] = joined(known[index], boxes)
            result.append(tokens)
        return result

    def encode(self, prompts: Sequence[Prompt | str], image: Image | None = None) -> list[EncodedPrompt]:
        """Prompts to look for on any image, encoded once; :meth:`detect` takes them in place of prompts.

        Boxes are pixels of ``image`` (RGB uint8 [H, W, 3]), which they are examples on: its features are what the
        geometry encoder reads, so that the tokens hold for the resolution that they were made at. A prompt's tokens do
        not depend on the others. Raises :class:`PromptError` for boxes without an image, or outside it.
        """
        asked = [as_prompt(prompt) for prompt in prompts]
        if image is not None:
            check_image(image)
        elif any(prompt.boxes for prompt in asked):
            raise PromptError("a prompt has boxes, and there is no image that they are on", "give the image too")
        with self._turns.take():
            tokens = self.encode_texts([prompt.words for prompt in asked])
            if image is not None:
                features = self.encode_images(self.preprocess([image]))
                size = image.shape[0], image.shape[1]
                # One by one: together, the shorter ones would be padded to the longest.
                tokens = [self.encode_prompts([prompt], [size], features)[0][0] for prompt in asked]
        return [EncodedPrompt(prompt.name, one) for prompt, one in zip(asked, tokens, strict=True)]

    def decode(self, features: Features, tokens: Sequence[Tokens]) -> dict[str, AnyArray]:
        """Decoder: P prompts on the features of one image, or of one image each. Shorter prompts are padded.

        All but ``pred_masks``, which stays where it is, comes to the host.
        """
        masks, others = self._start_decoder(features, tokens)
        return {"pred_masks": masks, **self.device.fetch(others)}

    def _start_decoder(self, features: Features, tokens: Sequence[Tokens]) -> tuple[AnyArray, Mapping[str, AnyArray]]:
        """``pred_masks``, and the other outputs, wherever they are made: a GPU may still be at it."""
        engine = self.engine("decoder")
        feeds = {**features, **prompt_rows(tokens)}
        outputs = dict(engine.infer(engine.cast(feeds)))
        return outputs.pop("pred_masks"), outputs

    def engine(self, part: PartName) -> Engine:
        """The engine of ``part``; :class:`EngineError` where it was not opened."""
        if part not in self.engines:
            raise self._not_opened(part)
        return self.engines[part]

    def _not_opened(self, part: PartName) -> EngineError:
        return EngineError(
            f"the {part} of {self.config.variant} was not opened, and is needed here",
            "open all parts: sam3_runtime.load(directory); only classes of a bank need no more than the vision-encoder "
            "and the decoder",
        )

    def close(self) -> None:
        """Free the engines and the remembered texts. Closing twice does nothing."""
        self._texts.clear()
        for engine in self.engines.values():
            engine.close()
        self.device.close()
