"""Finds things: pictures and prompts in, detections out, through the four engines of one variant.

Knows the order of the parts and how prompts and pictures are arranged into their batches. Knows no backend, no file
format and no network: an engine is something with named inputs and outputs.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Literal

import numpy as np
from typing_extensions import Self

from sam3_runtime.backends import open_engine, rebuild_hint
from sam3_runtime.backends.base import Array, Engine, EngineOptions
from sam3_runtime.config import EngineRecord, VariantConfig
from sam3_runtime.configure import check_agreement, read_records
from sam3_runtime.contract import PART_NAMES, ModelDims, PartName
from sam3_runtime.errors import RecordError
from sam3_runtime.files import sha256_of
from sam3_runtime.overview import status_of
from sam3_runtime.postprocess import Detections, detections_of
from sam3_runtime.preprocess import Image, check_image, preprocess
from sam3_runtime.prompts import Prompt, Tokenizer, as_prompt, box_rows
from sam3_runtime.variants import Variant

THRESHOLD = 0.3
"""Score that a detection must exceed, as in transformers (Meta's own processor takes 0.5)."""
_TEXTS_KEPT = 1024  # encoded prompts remembered, 32 KiB each

Stage = Literal["preprocess", "vision", "prompt", "decoder", "postprocess"]
StageHook = Callable[[Stage], AbstractContextManager[object]]
"""Called with a stage's name, gives the context that the stage runs in: a stopwatch, for example."""

log = logging.getLogger(__name__)


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
    """The engines of one variant, opened. Made by :func:`load`; use it as a context manager, or :meth:`close` it.

    ``config`` and ``records`` are the variant's own; ``status`` is the accuracy gate's verdict (``passed``,
    ``rejected``, ``failed`` or ``unverified``) and ``reason`` what it says; ``engines`` holds the opened parts.

    Thread safety: :meth:`detect` may be called from several threads at once. ONNX Runtime then really runs side by
    side; engines that cannot take turns call by call. :meth:`close` only when no call runs.
    """

    def __init__(
        self,
        config: VariantConfig,
        engines: dict[PartName, Engine],
        tokenizer: Tokenizer,
        status: str = "unverified",
        reason: str = "",
    ) -> None:
        self.config = config
        self.engines = engines
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
            yield from self._detect_batch(images[start : start + self.batch], job)

    def _detect_batch(self, images: Sequence[Image], job: _Job) -> Iterator[list[Detections]]:
        """Detect on at most :attr:`batch` images."""
        with job.stage("preprocess"):
            pixels = preprocess(images, self.config.resolution, self.config.preprocessing)
        with job.stage("vision"):
            features = self.encode_images(pixels)
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        with job.stage("prompt"):
            tokens = self.encode_prompts(job.prompts, sizes, features)
        limit = self.engines["decoder"].limit("P")
        # Either way every row is an image and a prompt: the fewer calls, the better; on a tie the first reads less.
        if len(images) * _calls(len(job.prompts), limit) <= len(job.prompts) * _calls(len(images), limit):
            yield from self._image_by_image(features, tokens, sizes, job)
        else:
            yield from self._prompt_by_prompt(features, tokens, sizes, job)

    def _image_by_image(
        self, features: dict[str, Array], tokens: list[list[Tokens]], sizes: list[tuple[int, int]], job: _Job
    ) -> Iterator[list[Detections]]:
        """Decode all prompts of one image together: its features are there once (N = 1)."""
        limit = self.engines["decoder"].limit("P")
        for index, size in enumerate(sizes):
            found: list[Detections] = []
            for start in range(0, len(job.prompts), limit):
                chosen = range(start, min(start + limit, len(job.prompts)))
                with job.stage("decoder"):
                    outputs = self.decode(_only(features, index, index + 1), [tokens[index][one] for one in chosen])
                with job.stage("postprocess"):
                    found += [_detections(outputs, row, size, one, job) for row, one in enumerate(chosen)]
            yield found

    def _prompt_by_prompt(
        self, features: dict[str, Array], tokens: list[list[Tokens]], sizes: list[tuple[int, int]], job: _Job
    ) -> Iterator[list[Detections]]:
        """Decode all images for one prompt together (N = P)."""
        limit = self.engines["decoder"].limit("P")
        found: list[list[Detections]] = [[] for _ in sizes]
        for one in range(len(job.prompts)):
            for start in range(0, len(sizes), limit):
                chosen = range(start, min(start + limit, len(sizes)))
                with job.stage("decoder"):
                    rows = _only(features, start, chosen.stop)
                    outputs = self.decode(rows, [tokens[index][one] for index in chosen])
                with job.stage("postprocess"):
                    for row, index in enumerate(chosen):
                        found[index].append(_detections(outputs, row, sizes[index], one, job))
        yield from found

    # --- the parts, one by one: verification and benchmark call them too ----------------------------------------------

    def encode_images(self, pixels: Array) -> dict[str, Array]:
        """Vision encoder: float32 [B, 3, R, R], B at most :attr:`batch` → ``fpn_feat_0/1/2`` and ``fpn_pos_2``."""
        engine = self.engines["vision-encoder"]
        return engine.infer(engine.cast({"images": pixels}))

    def encode_texts(self, texts: Sequence[str]) -> list[Tokens]:
        """Text encoder: one :class:`Tokens` of 32 for each text. Texts are remembered."""
        with self._texts_lock:
            found = {text: self._texts[text] for text in texts if text in self._texts}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        engine = self.engines["text-encoder"]
        limit = engine.limit("P")
        for start in range(0, len(missing), limit):
            chunk = missing[start : start + limit]
            tokens = self.tokenizer(chunk)
            outputs = engine.infer(
                engine.cast({"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask})
            )
            rows = zip(outputs["text_features"], outputs["text_mask"], strict=True)
            found |= {
                text: Tokens(features.copy(), mask.copy()) for text, (features, mask) in zip(chunk, rows, strict=True)
            }
        with self._texts_lock:
            self._texts.update(found)
            while len(self._texts) > _TEXTS_KEPT:
                self._texts.popitem(last=False)
        return [found[text] for text in texts]

    def encode_boxes(
        self, prompts: Sequence[Prompt], size: tuple[int, int], features: dict[str, Array]
    ) -> list[Tokens]:
        """Geometry encoder: the boxes of each prompt (which has some) on one image of ``size`` (height, width).

        ``features`` are that image's own (N = 1). A prompt of n boxes has n + 1 valid tokens.
        """
        engine = self.engines["geometry-encoder"]
        limit = engine.limit("P")
        tokens: list[Tokens] = []
        for start in range(0, len(prompts), limit):
            rows = box_rows(prompts[start : start + limit], size)
            feeds = {**features, "input_boxes": rows.boxes, "input_boxes_labels": rows.labels}
            outputs = engine.infer(engine.cast(feeds))
            tokens += map(Tokens, outputs["geometry_features"], outputs["geometry_mask"])
        return tokens

    def encode_prompts(
        self, prompts: Sequence[Prompt], sizes: Sequence[tuple[int, int]], features: dict[str, Array]
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
                shown = self.encode_boxes([prompts[i] for i in boxed], size, _only(features, image, image + 1))
                for index, boxes in zip(boxed, shown, strict=True):
                    tokens[index] = _joined(texts[index], boxes)
            result.append(tokens)
        return result

    def decode(self, features: dict[str, Array], tokens: Sequence[Tokens]) -> dict[str, Array]:
        """Decoder: P prompts on the features of one image, or of one image each. Shorter prompts are padded."""
        engine = self.engines["decoder"]
        longest = max(len(one.mask) for one in tokens)
        channels = tokens[0].features.shape[1]
        prompt_features = np.zeros((len(tokens), longest, channels), tokens[0].features.dtype)
        prompt_mask = np.zeros((len(tokens), longest), np.bool_)
        for row, one in enumerate(tokens):
            prompt_features[row, : len(one.mask)] = one.features
            prompt_mask[row, : len(one.mask)] = one.mask
        return engine.infer(engine.cast({**features, "prompt_features": prompt_features, "prompt_mask": prompt_mask}))

    def close(self) -> None:
        """Free the engines. Closing twice does nothing."""
        for engine in self.engines.values():
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _calls(rows: int, limit: int) -> int:
    return -(-rows // limit)


def _only(features: dict[str, Array], start: int, stop: int) -> dict[str, Array]:
    """The features of some images, as views. The position table has one row for all."""
    return {name: array if name == "fpn_pos_2" else array[start:stop] for name, array in features.items()}


def _joined(text: Tokens, boxes: Tokens) -> Tokens:
    features = np.concatenate([text.features, boxes.features.astype(text.features.dtype, copy=False)])
    return Tokens(features, np.concatenate([text.mask, boxes.mask]))


def _detections(outputs: dict[str, Array], row: int, size: tuple[int, int], prompt: int, job: _Job) -> Detections:
    name = job.prompts[prompt].name
    return detections_of(outputs, row, size, prompt=name, prompt_index=prompt, threshold=job.threshold, top=job.top)


# --- loading ----------------------------------------------------------------------------------------------------------


def load(
    directory: str | Path,
    *,
    threads: int | None = None,
    providers: Sequence[str] = (),
    verify_digest: bool = True,
) -> Pipeline:
    """Open the variant in ``directory``, such as ``engines/b8_q50_r672`` or an unpacked archive.

    Records are read and compared before any engine is opened. ``threads`` is for engines on a CPU (all cores when
    None), ``providers`` for ONNX Runtime. ``verify_digest=False`` skips hashing the engines, for files that were
    checked before; an engine is a program, so do that only where nobody else writes. A variant that the accuracy gate
    did not pass is opened with a warning in the log.

    Raises :class:`RecordError` for records that are missing, damaged or do not belong together, :class:`EngineError`
    for an engine that does not load here; each says how to rebuild.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise RecordError(f"{directory} is no folder", "name a variant's folder, such as engines/b8_q50_r672")
    config = VariantConfig.read(directory / "config.json")
    records = read_records(directory)
    check_agreement(directory, config, records)
    tokenizer = _read_tokenizer(directory, config)
    status, reason = status_of(directory, records)
    if status != "passed":
        log.warning("%s is %s: %s", config.variant, status.upper(), reason)
    options = EngineOptions(threads, tuple(providers))
    variant = Variant(config.batch, config.queries, config.resolution, config.quantize or "none")
    engines: dict[PartName, Engine] = {}
    try:
        for part in PART_NAMES:
            engines[part] = open_engine(directory, part, options, variant=variant, verify_digest=verify_digest)
    except BaseException:
        for engine in engines.values():
            engine.close()
        raise
    return Pipeline(config, engines, tokenizer, status, reason)


def _read_tokenizer(directory: Path, config: VariantConfig) -> Tokenizer:
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise RecordError(f"{path} is missing", rebuild_hint(path))
    if sha256_of(path) != config.tokenizer_sha256:
        raise RecordError(f"{path} is not the tokenizer that the text encoder was exported with", rebuild_hint(path))
    return Tokenizer(path, ModelDims(**config.dims).text_tokens)
