"""Training batches: scenes and what is asked of them, drawn by worker processes; pictures and truth, on the device.

A batch is B images with six prompts each, R = 6 B rows in four blocks, so that every step has the same shapes:

    words    3 a image   a phrase, absent in about a third of the rows
    boxes    1 a image   example boxes on the same image: all things of that shape and colour
    across   1 a image   example boxes on another image of the batch: the same, absent in about a third
    both     1 a image   a phrase and a box. A negative box takes the things of its shape and colour away from what the
                         phrase names; a positive box on one of the named things takes nothing away

Knows scenes, and no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from demo.scene_layouts import COLOURS, MOST_THINGS, Layout, sample_layout
from demo.scene_phrases import ABSENT_SHARE, Phrase, classes, every_phrase, example_boxes, phrases, things_of
from demo.scene_render import boxes_of, render
from demo.scene_shapes import SHAPES
from sam3_runtime.contract import BOX_PADDING_LABEL
from sam3_runtime.prompts import BOXES_ONLY_TEXT

VOCABULARY = (*every_phrase(), BOXES_ONLY_TEXT)
WORDS = 3
BOXED = ("boxes", "across", "both")
MOST_BOXES = 4
PIXEL_CLASSES = (len(SHAPES) + 1, len(COLOURS) + 1)
"""Shapes and colours that a pixel can show, the last of each being the ground."""
_JITTER = 0.05  # of an example box's sides: people do not draw tight boxes

_INDEX = {text: index for index, text in enumerate(VOCABULARY)}
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Questions:
    """What a batch asks, as numbers of the scenes.

    ``phrase`` int64 [R] indexes ``VOCABULARY``; ``image`` int64 [R]; ``wanted`` bool [R, T], which things of the image
    are meant. Of the last 3 B rows: ``example`` int64 [3 B], the image that the boxes are on; ``things`` int64
    [3 B, n], whose boxes they are; ``labels`` int64 [3 B, n], 1, 0 or −10 for no box.
    """

    layouts: tuple[Layout, ...]
    phrase: Ints
    image: Ints
    wanted: NDArray[np.bool_]
    example: Ints
    things: Ints
    labels: Ints


def ask(rng: np.random.Generator, images: int) -> Questions:
    """Draw scenes and prompts. Each scene but the first often holds a thing like the one shown on the scene before."""
    layouts: list[Layout] = []
    rows: dict[str, list[_Row]] = {"words": [], **{kind: [] for kind in BOXED}}
    first: Layout = sample_layout(rng)
    layouts.append(first)
    shown = []
    for index in range(1, images + 1):
        examples = example_boxes(layouts[-1], rng)
        like = classes(layouts[-1])[examples.positive[0]]
        shown.append((index - 1, examples.positive, examples.negative, like))
        if index < images:
            layouts.append(sample_layout(rng, include=[like] if rng.random() > ABSENT_SHARE else ()))
    for index, layout in enumerate(layouts):
        asked = phrases(layout, rng, WORDS + 1)
        rows["words"] += [_Row(index, one.text, one.things) for one in asked[:WORDS]]
        same = example_boxes(layout, rng)
        rows["boxes"].append(_Row(index, BOXES_ONLY_TEXT, same.things, index, same.positive, same.negative))
        place, positive, negative, like = shown[index - 1]
        meant = tuple(things_of(layout, like))
        rows["across"].append(_Row(index, BOXES_ONLY_TEXT, meant, place, positive, negative))
        rows["both"].append(_both(rng, layout, index, asked[WORDS]))
    return _as_arrays(layouts, [row for block in rows.values() for row in block])


@dataclass(frozen=True)
class _Row:
    image: int
    text: str
    meant: tuple[int, ...]
    example: int = 0
    positive: tuple[int, ...] = ()
    negative: tuple[int, ...] = ()


def _both(rng: np.random.Generator, layout: Layout, index: int, phrase: Phrase) -> _Row:
    """A phrase with a positive box, where it is present, or with a negative one, on a named thing where that leaves
    others."""
    there = classes(layout)
    kinds = sorted({there[thing] for thing in phrase.things})
    if phrase.things and rng.random() < 0.5:
        return _Row(index, phrase.text, phrase.things, index, (int(rng.choice(phrase.things)),))
    pool = list(phrase.things) if len(kinds) > 1 else [i for i in range(len(there)) if i not in phrase.things]
    if not pool:  # everything is what the phrase names, and all alike
        return _Row(index, phrase.text, phrase.things, index, phrase.things[:1])
    taken = int(rng.choice(pool))
    left = tuple(thing for thing in phrase.things if there[thing] != there[taken])
    return _Row(index, phrase.text, left, index, (), (taken,))


def _as_arrays(layouts: list[Layout], rows: list[_Row]) -> Questions:
    boxed = rows[len(layouts) * WORDS :]
    wanted = np.zeros((len(rows), MOST_THINGS), np.bool_)
    things = np.zeros((len(boxed), MOST_BOXES), np.int64)
    labels = np.full((len(boxed), MOST_BOXES), BOX_PADDING_LABEL, np.int64)
    for place, row in enumerate(rows):
        wanted[place, list(row.meant)] = True
    for place, row in enumerate(boxed):
        count = len(row.positive) + len(row.negative)
        things[place, :count] = (*row.positive, *row.negative)
        labels[place, :count] = (1,) * len(row.positive) + (0,) * len(row.negative)
    return Questions(
        layouts=tuple(layouts),
        phrase=np.array([_INDEX[row.text] for row in rows]),
        image=np.array([row.image for row in rows]),
        wanted=wanted,
        example=np.array([row.example for row in boxed]),
        things=things,
        labels=labels,
    )


@dataclass(frozen=True)
class Batch:
    """What the model sees and what is true, on the device. Boxes are xyxy from 0 to 1 where nothing else is said.

    ``pixels`` float32 [B, 3, r, r], normalised as the processor does; ``phrase``, ``image`` int64 [R];
    ``example`` int64 [3 B], ``example_boxes`` float32 [3 B, n, 4] **cxcywh**, ``labels`` int64 [3 B, n];
    ``boxes`` [R, T, 4] and ``valid`` bool [R, T]: the targets of each row. ``pair_row``, ``pair_thing`` int64 [N]:
    every (row, thing) that is meant; ``masks`` float32 [N, 4g, 4g], how much of each cell it covers, and
    ``everything`` [R, 4g, 4g], how much all that is meant does. ``asked`` int64 [M]: rows that mean something, and
    ``pair_asked`` int64 [N] the place of each pair's row among them. ``labels_of_pixels`` int64 [B, 2, 2g, 2g]: shape
    and colour.
    """

    pixels: Tensor
    phrase: Tensor
    image: Tensor
    example: Tensor
    example_boxes: Tensor
    labels: Tensor
    boxes: Tensor
    valid: Tensor
    pair_row: Tensor
    pair_thing: Tensor
    pair_asked: Tensor
    masks: Tensor
    asked: Tensor
    everything: Tensor
    labels_of_pixels: Tensor

    def inputs(self) -> tuple[Tensor, ...]:
        """What the model is given, in its own order."""
        return self.pixels, self.phrase, self.image, self.example, self.example_boxes, self.labels, self.asked

    def tensors(self) -> Iterator[Tensor]:
        for field in fields(self):
            yield getattr(self, field.name)


@torch.no_grad()
def build(questions: Questions, device: torch.device, resolution: int, grid: int, jitter: float = _JITTER) -> Batch:
    """Draw the scenes at their own size, shrink them to ``resolution`` pixels (``grid`` patches), and work out the
    truth from which thing each pixel shows. What is meant but cannot be seen is no target."""
    rows, slots = questions.wanted.nonzero()
    asked, pair_asked = np.unique(rows, return_inverse=True)

    def send(array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    pictures, ids = render(questions.layouts, device)
    side = ids.shape[-1]
    pixels = pictures.float()
    if side != resolution:
        pixels = F.interpolate(pixels, (resolution, resolution), mode="bilinear", antialias=True)
        pixels = pixels.round().clamp(0, 255)  # as the processor does
    boxes = boxes_of(ids, MOST_THINGS) / side
    seen = (boxes[..., 2:] > boxes[..., :2]).all(-1)
    image, pair_row, pair_thing = send(questions.image), send(rows), send(slots)
    masks = _coverage(ids, 4 * grid)[image[pair_row], pair_thing]
    whole = torch.zeros(len(asked), *masks.shape[1:], device=device)
    whole.index_add_(0, send(pair_asked), masks)
    example, things, labels = send(questions.example), send(questions.things), send(questions.labels)
    return Batch(
        pixels=pixels / 127.5 - 1,
        phrase=send(questions.phrase),
        image=image,
        example=example,
        example_boxes=_example_boxes(boxes[example].gather(1, things[..., None].expand(-1, -1, 4)), labels, jitter),
        labels=labels,
        boxes=boxes[image],
        valid=send(questions.wanted) & seen[image],
        pair_row=pair_row,
        pair_thing=pair_thing,
        pair_asked=send(pair_asked),
        masks=masks,
        asked=send(asked),
        everything=whole.clamp(max=1),
        labels_of_pixels=_labels_of_pixels(questions.layouts, ids, 2 * grid),
    )


def _coverage(ids: Tensor, cells: int) -> Tensor:
    """How much of each of cells² cells each thing covers: float32 [B, T, cells, cells] of ids [B, H, H]."""
    mine = ids[:, None] == torch.arange(MOST_THINGS, device=ids.device, dtype=ids.dtype)[:, None, None]
    edge = torch.arange(ids.shape[-1] + 1, device=ids.device) * (cells / ids.shape[-1])
    cell = torch.arange(cells, device=ids.device)[:, None]
    share = (edge[1:].clamp(max=cell + 1) - edge[:-1].clamp(min=cell)).clamp(min=0)  # of each pixel's side, in cells
    kind = torch.bfloat16 if ids.is_cuda else torch.float32
    return (share.to(kind) @ mine.to(kind) @ share.to(kind).T).float()


def _example_boxes(boxes: Tensor, labels: Tensor, jitter: float) -> Tensor:
    """xyxy [.., n, 4] to cxcywh, each side moved a little; zeros where there is no box, as in the runtime."""
    low, high = boxes[..., :2], boxes[..., 2:]
    moved = boxes + (torch.rand_like(boxes) * 2 - 1) * jitter * (high - low).repeat(1, 1, 2)
    low, high = moved.clamp(0, 1)[..., :2], moved.clamp(0, 1)[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1) * (labels != BOX_PADDING_LABEL)[..., None]


def _labels_of_pixels(layouts: tuple[Layout, ...], ids: Tensor, cells: int) -> Tensor:
    """Shape and colour at the centres of cells² cells, int64 [B, 2, cells, cells]."""
    table = np.empty((len(layouts), 2, MOST_THINGS + 1), np.int64)
    table[:] = np.array([classes - 1 for classes in PIXEL_CLASSES])[:, None]
    for index, layout in enumerate(layouts):
        table[index, 0, : len(layout.things)] = layout.things["shape"]
        table[index, 1, : len(layout.things)] = layout.things["colour"]
    centre = ((torch.arange(cells, device=ids.device) + 0.5) * (ids.shape[-1] / cells)).long()
    shown = ids[:, centre[:, None], centre].long()
    shown = torch.where(shown < 0, MOST_THINGS, shown).flatten(1)[:, None].expand(-1, 2, -1)
    return torch.from_numpy(table).to(ids.device).gather(2, shown).view(-1, 2, cells, cells)
