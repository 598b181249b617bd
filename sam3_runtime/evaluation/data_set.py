"""Reads a concept data set: pictures, the phrases that each is asked, and what is there to be found, in COCO's format.

Ordinary COCO JSON whose categories are phrases: ``name`` is what is prompted. Beyond COCO, an image may have
``prompted_category_ids``, the phrases that it is asked (those without annotations in it are absent), or LVIS's
``neg_category_ids``, phrases known to be absent; a category may have ``"exemplar": false`` where an example box cannot
stand for it (a box around a red circle shows no mere "circle"). Knows files and run-length encodings, no engine.

What contradicts itself is refused with its place. What is merely not there is left out of what needs it: a picture that
cannot be read when it is read, and an instance without a mask where masks are measured.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from sam3_runtime.core.errors import Sam3Error, printable
from sam3_runtime.core.files import digest_of, sha256_of
from sam3_runtime.core.wording import counted
from sam3_runtime.families.sam3.prompts import Box
from sam3_runtime.imaging.postprocess import Size
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.media.sources import load_image

Rle = dict[str, Any]
"""COCO's compressed run-length encoding: ``size`` [H, W] and ``counts``."""
Pair = tuple[int, int]
"""Ids of a picture and of a category that it is asked."""
_MOST_PIXELS = 1 << 30  # of a picture that can be read
log = logging.getLogger(__name__)


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
        """RGB uint8 [H, W, 3]; :class:`DataSetError` where it has another size than its entry says, and
        :class:`SourceError` where it cannot be read."""
        image = load_image(self.source) if isinstance(self.source, Path) else self.source
        if image.shape[:2] != self.size:
            said, found = (f"{width} x {height}" for height, width in (self.size, image.shape[:2]))
            message = f"{self.name} has {found} pixels, and the annotations say {said}"
            if image.shape[:2] == self.size[::-1]:
                raise DataSetError(
                    f"{message}: they were made before the picture was turned as its EXIF orientation says",
                    "annotate the picture as it is shown, or take the orientation out of its EXIF data",
                )
            raise DataSetError(
                message, "annotations are in pixels of the picture: use the pictures that they were made on"
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
        return any(one.mask is not None for listed in self.instances.values() for one in listed)

    def knows_masks_of(self, pair: Pair) -> bool:
        """Whether every instance of the pair has a mask: answers can be held against no other."""
        return all(one.mask is not None for one in self.instances.get(pair, ()))

    def without(self, images: Collection[int]) -> ConceptData:
        """The same but for the pictures of these ids."""
        return replace(
            self,
            images=tuple(one for one in self.images if one.id not in images),
            instances={pair: listed for pair, listed in self.instances.items() if pair[0] not in images},
        )


# --- the file ---------------------------------------------------------------------------------------------------------


_Id = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_Side = Annotated[int, Field(ge=1, le=_MOST_PIXELS)]
_Length = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Image(BaseModel):
    id: _Id
    file_name: str
    height: _Side
    width: _Side
    prompted_category_ids: tuple[_Id, ...] | None = None
    neg_category_ids: tuple[_Id, ...] = ()


class _Category(BaseModel):
    id: _Id
    name: str
    exemplar: bool = True


class _Annotation(BaseModel):
    id: Any = None
    image_id: _Id
    category_id: _Id
    bbox: tuple[FiniteFloat, FiniteFloat, _Length, _Length]
    area: _Length | None = None
    iscrowd: int = Field(0, ge=0, le=1)
    segmentation: Any = None


class _File(BaseModel):
    images: list[_Image] = Field(min_length=1)
    categories: list[_Category] = Field(min_length=1)
    annotations: list[_Annotation]


def read_concepts(
    annotations: Path, images: Path | None = None, *, limit: int | None = None, all_categories: bool = False
) -> ConceptData:
    """Read the annotation file and check it, and that it finds its pictures; none is decoded.

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
    if not any(isinstance(image.source, Path) and image.source.is_file() for image in found):
        raise DataSetError(
            f"{annotations}: none of its {counted(len(found), 'picture')} is in {folder}, first {found[0].name}",
            "name the folder that file_name is relative to: --images FOLDER",
        )
    if not any(image.prompted for image in found):
        raise DataSetError(f"{annotations} asks nothing of its pictures", "annotate some, or use --all-categories")
    asked = {(image.id, category) for image in found for category in image.prompted}
    kept = {pair: tuple(listed) for pair, listed in instances.items() if pair in asked}
    return ConceptData(printable(annotations.name), _digest(found, categories, kept), found, categories, kept)


def _digest(
    images: Sequence[ConceptImage],
    categories: Mapping[int, Category],
    instances: Mapping[Pair, Sequence[Instance]],
) -> str:
    asked = [[one.id, _digest_of_file(one.source), one.prompted] for one in images if isinstance(one.source, Path)]
    there = [[*pair, [vars(one) for one in listed]] for pair, listed in sorted(instances.items())]
    return digest_of([asked, sorted((number, vars(one)) for number, one in categories.items()), there])


def _digest_of_file(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except OSError:  # it is left out when it is to be read
        return None


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
        location = ".".join(str(key) for key in first["loc"]) or "the file"
        match first["loc"]:
            case ("annotations", int(place), *rest) if rest and isinstance(entry := data["annotations"][place], dict):
                location = ".".join([_place(place, entry.get("id")), *map(str, rest)])
        raise DataSetError(f"{path} is not COCO's format: {location}: {first['msg']}", hint) from None


def _place(place: int, number: Any) -> str:
    """Where an annotation is in the list, and its id, which it need not have."""
    return f"annotations.{place}" if number is None else f"annotations.{place} (id {number})"


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
            where = f"{path}: {_place(place, one.id)}"
            raise DataSetError(f"{where} names what is not listed: {what}", "list it, or leave out")
    for image in file.images:
        if image.width * image.height > _MOST_PIXELS:
            raise DataSetError(f"{path}: {image.file_name} is {image.width} x {image.height}: no picture is that large")
        unknown = {*(image.prompted_category_ids or ()), *image.neg_category_ids} - categories.keys()
        if unknown:
            raise DataSetError(f"{path}: {image.file_name} is asked categories that are not listed: {sorted(unknown)}")


def _instances(
    path: Path, annotations: Sequence[_Annotation], images: Mapping[int, _Image]
) -> dict[Pair, list[Instance]]:
    found: dict[Pair, list[Instance]] = {}
    without: list[str] = []
    for place, one in enumerate(annotations):
        if one.image_id not in images:
            continue
        size = images[one.image_id].height, images[one.image_id].width
        where = f"{path}: {_place(place, one.id)}"
        mask = _mask(one.segmentation, size, f"{where}.segmentation")
        without += [_place(place, one.id)] if mask is None else []
        x, y, width, height = one.bbox
        box = (x, y, x + width, y + height)
        if not _near(np.asarray(box), size):
            raise DataSetError(f"{where}.bbox is far off its picture of {size[1]} x {size[0]}: {[*one.bbox]}", _PIXELS)
        area = width * height if one.area is None else one.area
        found.setdefault((one.image_id, one.category_id), []).append(Instance(box, area, bool(one.iscrowd), mask))
    total = sum(map(len, found.values()))
    if 0 < len(without) < total:
        log.warning("%s: %d of %d annotations have no mask, first %s", path, len(without), total, without[0])
    return found


_PIXELS = "coordinates are x, y in pixels of the picture; correct the annotation, or take it out"


def _near(points: NDArray[np.float64], size: Size) -> bool:
    """Whether x, y, x, y … are at most ten times the picture's width and height off it. Not a number is not."""
    within = [np.abs(points[axis::2] - side / 2) <= 10.5 * side for axis, side in ((0, size[1]), (1, size[0]))]
    return bool(np.concatenate(within).all())


# --- masks ------------------------------------------------------------------------------------------------------------


def _mask(segmentation: Any, size: Size, place: str) -> Rle | None:
    """Polygons, or run lengths compressed or not → compressed run lengths; None where there are none: points and lines
    have no inside."""
    from pycocotools import mask as coco

    if not segmentation:
        return None
    hint = "polygons [[x, y, ...]], or run lengths {size: [height, width], counts} over the whole picture"
    try:
        if isinstance(segmentation, list):
            polygons = [_polygon(one, size) for one in segmentation]
            solid = [one for one in polygons if len(one) >= 6]  # pycocotools takes four numbers for a box
            if not solid:
                return None
            encoded = coco.merge(coco.frPyObjects(solid, *size))
        else:
            counts = segmentation["counts"]
            runs = np.asarray(counts, np.int64) if isinstance(counts, list) else run_lengths(counts)
            if tuple(segmentation["size"]) != size or runs.min(initial=0) < 0 or runs.sum() != size[0] * size[1]:
                raise ValueError(f"{counted(int(runs.sum()), 'pixel')} in runs, size {segmentation['size']}")
            encoded = coco.frPyObjects(segmentation, *size) if isinstance(counts, list) else segmentation
    except Exception as error:  # pycocotools raises bare Exception for what it does not know
        raise DataSetError(f"{place} is no mask of {size[1]} x {size[0]} pixels: {error}", hint) from None
    text = encoded["counts"]
    return {"size": list(size), "counts": text.decode("ascii") if isinstance(text, bytes) else text}


def _polygon(points: Any, size: Size) -> list[float]:
    """x, y, x, y …, checked: pycocotools takes as much memory as an edge is long, and for ever for what is no number.
    ``ValueError`` or ``TypeError``."""
    found = np.asarray(points, np.float64)
    if found.ndim != 1 or len(found) % 2:
        raise ValueError(f"{points!r:.60} is no list x, y, x, y …")
    if not _near(found, size):
        raise ValueError("it has points far off the picture, or that are no numbers")
    return [float(one) for one in found]


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
