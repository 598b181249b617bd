"""Reads a concept data set: pictures, the phrases that each is asked, and what is there to be found, in COCO's format.

Ordinary COCO JSON whose categories are phrases: ``name`` is what is prompted. Beyond COCO, an image may have
``prompted_category_ids``, the phrases that it is asked (those without annotations in it are absent), or LVIS's
``neg_category_ids``, phrases known to be absent; a category may have ``"exemplar": false`` where an example box cannot
stand for it (a box around a red circle shows no mere "circle"). Knows files and run-length encodings, no engine.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from sam3_runtime.errors import Sam3Error
from sam3_runtime.files import digest_of, sha256_of
from sam3_runtime.postprocess import Size
from sam3_runtime.preprocess import Image
from sam3_runtime.prompts import Box
from sam3_runtime.sources import load_image

Rle = dict[str, Any]
"""COCO's compressed run-length encoding: ``size`` [H, W] and ``counts``."""
Pair = tuple[int, int]
"""Ids of a picture and of a category that it is asked."""


class DataSetError(Sam3Error):
    """An annotation file is not COCO's format, contradicts itself, or names pictures that are not there."""


@dataclass(frozen=True)
class Category:
    """A phrase. ``exemplar``: whether an example box of one instance shows what the phrase means."""

    name: str
    exemplar: bool = True


@dataclass(frozen=True)
class Instance:
    """One thing to be found. ``box`` is xyxy in pixels, ``area`` the mask's in pixels; a crowd is ignored by AP."""

    box: Box
    area: float
    crowd: bool
    mask: Rle | None


@dataclass(frozen=True)
class ConceptImage:
    """A picture and the categories that it is asked. ``source`` is its file, or its pixels."""

    id: int
    name: str
    size: Size
    prompted: tuple[int, ...]
    source: Path | Image

    def read(self) -> Image:
        """RGB uint8 [H, W, 3]; :class:`DataSetError` where it has another size than its entry says."""
        image = load_image(self.source) if isinstance(self.source, Path) else self.source
        if image.shape[:2] != self.size:
            said, found = (f"{width} x {height}" for height, width in (self.size, image.shape[:2]))
            raise DataSetError(
                f"{self.name} has {found} pixels, and the annotations say {said}",
                "annotations are in pixels of the picture: use the pictures that they were made on",
            )
        return image


@dataclass(frozen=True)
class ConceptData:
    """A concept data set. ``instances`` are those of pairs that are asked; a pair without any is absent.

    ``digest`` covers the pictures' files, what they are asked, and what is there.
    """

    name: str
    digest: str
    images: tuple[ConceptImage, ...]
    categories: Mapping[int, Category]
    instances: Mapping[Pair, tuple[Instance, ...]]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Every picture with every phrase that it is asked, in the order of the file."""
        return tuple((image.id, category) for image in self.images for category in image.prompted)

    @property
    def phrases(self) -> tuple[str, ...]:
        """Every phrase that is asked, each once."""
        return tuple(dict.fromkeys(self.categories[category].name for _, category in self.pairs))

    @property
    def has_masks(self) -> bool:
        return all(one.mask is not None for listed in self.instances.values() for one in listed)


# --- the file ---------------------------------------------------------------------------------------------------------


class _Image(BaseModel):
    id: int
    file_name: str
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    prompted_category_ids: tuple[int, ...] | None = None
    neg_category_ids: tuple[int, ...] = ()


class _Category(BaseModel):
    id: int
    name: str
    exemplar: bool = True


class _Annotation(BaseModel):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int = Field(0, ge=0, le=1)
    segmentation: Any = None


class _File(BaseModel):
    images: list[_Image] = Field(min_length=1)
    categories: list[_Category] = Field(min_length=1)
    annotations: list[_Annotation]


def read_concepts(
    annotations: Path, images: Path | None = None, *, limit: int | None = None, all_categories: bool = False
) -> ConceptData:
    """Read the annotation file and check it, and that its pictures are there; none is decoded.

    ``images`` is the folder that ``file_name`` is relative to, that of the annotations when left out; ``limit`` takes
    the first pictures only. Where an image does not say what it is asked, it is asked the categories that have
    annotations in it, and its ``neg_category_ids``; with ``all_categories`` every one. :class:`DataSetError` says what
    is wrong, and where in the file.
    """
    file = _parse(annotations)
    categories = {one.id: Category(one.name.strip(), one.exemplar) for one in file.categories}
    entries = file.images[:limit]
    _check(annotations, file, categories)
    instances = _instances(annotations, file.annotations, {one.id: one for one in entries})
    present: dict[int, list[int]] = {}
    for image, category in instances:
        present.setdefault(image, []).append(category)
    folder = annotations.parent if images is None else images
    found = tuple(
        ConceptImage(
            one.id, one.file_name, (one.height, one.width),
            tuple(categories) if all_categories else _prompted(one, present.get(one.id, [])),
            folder / one.file_name,
        )
        for one in entries
    )  # fmt: skip
    missing = [image for image in found if isinstance(image.source, Path) and not image.source.is_file()]
    if missing:
        raise DataSetError(
            f"{annotations}: {len(missing)} of {len(found)} pictures are not in {folder}, first {missing[0].name}",
            "name the folder that file_name is relative to: --images FOLDER",
        )
    if not any(image.prompted for image in found):
        raise DataSetError(f"{annotations} asks nothing of its pictures", "annotate some, or use --all-categories")
    asked = {(image.id, category) for image in found for category in image.prompted}
    kept = {pair: tuple(listed) for pair, listed in instances.items() if pair in asked}
    return ConceptData(annotations.name, _digest(found, categories, kept), found, categories, kept)


def _digest(
    images: Sequence[ConceptImage],
    categories: Mapping[int, Category],
    instances: Mapping[Pair, Sequence[Instance]],
) -> str:
    asked = [[one.id, sha256_of(one.source), one.prompted] for one in images if isinstance(one.source, Path)]
    there = [[*pair, [vars(one) for one in listed]] for pair, listed in sorted(instances.items())]
    return digest_of([asked, sorted((number, vars(one)) for number, one in categories.items()), there])


def _prompted(image: _Image, present: Sequence[int]) -> tuple[int, ...]:
    chosen = image.prompted_category_ids
    return tuple(dict.fromkeys([*present, *image.neg_category_ids] if chosen is None else chosen))


def _parse(path: Path) -> _File:
    hint = "a COCO file has the lists images, categories and annotations: docs/evaluation.md"
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataSetError(f"{path} does not exist", "name the data set's annotation file") from None
    except OSError as error:
        raise DataSetError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise DataSetError(f"{path} is no JSON: {error}", hint) from None
    try:
        return _File.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(key) for key in first["loc"]) or "the file"
        raise DataSetError(f"{path} is not COCO's format: {place}: {first['msg']}", hint) from None


def _check(path: Path, file: _File, categories: Mapping[int, Category]) -> None:
    """Ids that are there twice, phrases without words, and ids that name nothing."""
    for kind, listed in (("images", file.images), ("categories", file.categories)):
        number, times = Counter(one.id for one in listed).most_common(1)[0]
        if times > 1:
            raise DataSetError(f"{path}: {kind} has the id {number} {times} times", "an id names one entry")
    wordless = next((number for number, one in categories.items() if not one.name), None)
    if wordless is not None:
        raise DataSetError(f"{path}: the category {wordless} has no name", "the name is the phrase that is prompted")
    images = {one.id for one in file.images}
    for place, one in enumerate(file.annotations):
        if one.image_id not in images or one.category_id not in categories:
            what = f"image_id {one.image_id}, category_id {one.category_id}"
            raise DataSetError(f"{path}: annotations.{place} names what is not listed: {what}", "list it, or leave out")
    for image in file.images:
        unknown = {*(image.prompted_category_ids or ()), *image.neg_category_ids} - categories.keys()
        if unknown:
            raise DataSetError(f"{path}: {image.file_name} is asked categories that are not listed: {sorted(unknown)}")


def _instances(
    path: Path, annotations: Sequence[_Annotation], images: Mapping[int, _Image]
) -> dict[Pair, list[Instance]]:
    found: dict[Pair, list[Instance]] = {}
    for place, one in enumerate(annotations):
        if one.image_id not in images:
            continue
        size = images[one.image_id].height, images[one.image_id].width
        mask = _mask(one.segmentation, size, f"{path}: annotations.{place}.segmentation")
        x, y, width, height = one.bbox
        area = width * height if one.area is None else one.area
        instance = Instance((x, y, x + width, y + height), area, bool(one.iscrowd), mask)
        found.setdefault((one.image_id, one.category_id), []).append(instance)
    return found


# --- masks ------------------------------------------------------------------------------------------------------------


def _mask(segmentation: Any, size: Size, place: str) -> Rle | None:
    """Polygons, or run lengths compressed or not → compressed run lengths; None where there are none."""
    from pycocotools import mask as coco

    if not segmentation:
        return None
    hint = "polygons [[x, y, ...]], or run lengths {size: [height, width], counts} over the whole picture"
    try:
        if isinstance(segmentation, list):
            encoded = coco.merge(coco.frPyObjects(segmentation, *size))
        else:
            counts = segmentation["counts"]
            runs = np.asarray(counts, np.int64) if isinstance(counts, list) else run_lengths(counts)
            if tuple(segmentation["size"]) != size or runs.min(initial=0) < 0 or runs.sum() != size[0] * size[1]:
                raise ValueError(f"{runs.sum()} pixels in runs, size {segmentation['size']}")
            encoded = coco.frPyObjects(segmentation, *size) if isinstance(counts, list) else segmentation
    except Exception as error:  # pycocotools raises bare Exception for what it does not know
        raise DataSetError(f"{place} is no mask of {size[1]} x {size[0]} pixels: {error}", hint) from None
    text = encoded["counts"]
    return {"size": list(size), "counts": text.decode("ascii") if isinstance(text, bytes) else text}


def run_lengths(counts: str) -> NDArray[np.int64]:
    """The runs in COCO's compressed text, zeros first. pycocotools decodes damaged ones without a word.

    Each number is a few characters of 5 bits, lowest first, a sixth bit saying that more follow; from the fourth run on
    it is the difference from the run two before. ``ValueError`` for text that ends within a number, or is no such text.
    """
    codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    last = (codes & 0x20) == 0
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or not last[-1]:
        raise ValueError("the run lengths are damaged")
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    number = np.cumsum(last) - last  # which number each character belongs to
    digit = np.arange(len(codes)) - starts[number]
    runs = np.add.reduceat((codes & 0x1F) << (5 * digit), starts)
    negative = (codes[last] & 0x10) != 0
    runs[negative] -= np.int64(1) << (5 * (digit[last][negative] + 1))
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs
