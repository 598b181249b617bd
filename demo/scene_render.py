"""Renders layouts in PyTorch, many at once, on a CPU or a GPU: images, and the object that each pixel shows.

Rendering works on a flat list of points, the pixels of every object's window: first grouped by shape, to evaluate each
signed distance once, then by depth, to paint the objects over each other. So the cost is proportional to the pixels
that objects cover, the number of operations is independent of the numbers of scenes and objects, and the host never
waits for the GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from demo.scene_grounds import PHOTOGRAPHS, photographs
from demo.scene_layouts import TEXTURES, Layout
from demo.scene_shapes import SHAPES, extents, signed_distance

_NOISE_SIDE = 512
_RIM = 0.12  # width of an object's darker outline, in the shape's units


@torch.no_grad()
def render(
    layouts: Sequence[Layout], device: torch.device | str, size: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """Return images uint8 [B, 3, H, W] RGB of layouts of one size, and int16 [B, H, W]: the visible object or -1.

    ``size`` (height, width) renders the same scenes larger or smaller than their layouts.
    """
    device = torch.device(device)
    laid_out = layouts[0].size
    height, width = size or laid_out
    zoom = height / laid_out[0]
    ground = np.stack([layout.ground for layout in layouts])
    light = np.stack([layout.light for layout in layouts])
    with torch.autocast(device.type, enabled=False):  # colours and positions need float32 under any autocast
        canvas = _ground(ground, (height, width), device)
        ids = torch.full((canvas.shape[0],), -1, dtype=torch.int16, device=device)
        _paint(canvas, ids, layouts, (height, width), zoom)
        image = canvas.view(len(layouts), height, width, 3).permute(0, 3, 1, 2)
        return _lit(image, light, device), ids.view(len(layouts), height, width)


def boxes_of(ids: Tensor, things: int) -> Tensor:
    """Return boxes float32 [B, things, 4] in pixels, tight around the visible part of each object of ``ids`` [B, H, W].

    An object that is not visible, or not in the image, has the box 0, 0, 0, 0.
    """
    mine = ids[:, None] == torch.arange(things, device=ids.device, dtype=ids.dtype)[:, None, None]
    sides = []
    for seen in (mine.any(2), mine.any(3)):  # by column, by row: [B, things, W or H]
        index = torch.arange(seen.shape[-1], device=ids.device)
        first = torch.where(seen, index, seen.shape[-1]).amin(-1)
        last = torch.where(seen, index + 1, 0).amax(-1)
        sides.append((torch.minimum(first, last), last))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], -1).float()


def _sent(numbers: NDArray[Any], device: torch.device) -> Tensor:
    """Copy the numbers to the device, without waiting for the work that is queued there."""
    return torch.from_numpy(np.array(numbers, order="C")).to(device, non_blocking=True)


# --- grounds ----------------------------------------------------------------------------------------------------------


@cache
def _photographs(device: torch.device) -> Tensor:
    """float32 [1, 3, photographs, side, side]: one volume, from which sampling selects slices."""
    return torch.from_numpy(photographs()).to(device).permute(3, 0, 1, 2)[None].float().contiguous()


def _ground(ground: NDArray[Any], size: tuple[int, int], device: torch.device) -> Tensor:
    """float32 [B · H · W, 3], 0 to 255."""
    patches = _sent(ground["patches"], device)
    smooth = F.interpolate(patches, size, mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    chosen = np.flatnonzero(ground["photograph"] >= 0)
    if len(chosen):
        some = ground[chosen]
        sampled = F.affine_grid(_sent(some["crop"], device), [len(chosen), 1, *size], align_corners=False)
        slices = _sent(some["photograph"], device) * (2 / (len(PHOTOGRAPHS) - 1)) - 1
        # With align_corners -1 and 1 are the first and the last slice, so that each is sampled exactly.
        sampled = torch.cat([sampled, slices[:, None, None, None].expand(*sampled.shape[:3], 1)], -1)
        taken = F.grid_sample(_photographs(device), sampled[None], padding_mode="border", align_corners=True)[0]
        mix, bias = (_sent(some[name], device) for name in ("mix", "bias"))
        mixed = torch.einsum("bkc,cbhw->bhwk", mix, taken)
        smooth = smooth.contiguous()
        smooth[_sent(chosen, device)] = mixed + bias[:, None, None]
    return smooth.reshape(-1, 3).clamp(0, 255)


@cache
def _noise(device: torch.device) -> Tensor:
    """float32 [3, 512, 512], standard normal: one tile, the same on every device, unlike random streams."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn((3, _NOISE_SIDE, _NOISE_SIDE), generator=generator).to(device)


def _lit(images: Tensor, light: NDArray[Any], device: torch.device) -> Tensor:
    """Apply light and noise to images [B, 3, H, W]; uint8."""
    height, width = images.shape[-2:]
    gain, shade, noise, offset = (_sent(light[name], device) for name in ("gain", "shade", "noise", "offset"))
    x = (torch.arange(width, device=device) + 0.5) / width - 0.5
    y = (torch.arange(height, device=device) + 0.5) / height - 0.5
    ramp = shade[:, 0, None, None] * x + shade[:, 1, None, None] * y[:, None]
    falling = 1 - shade.abs().sum(1)[:, None, None] / 2 + ramp  # at most 1
    rows = (offset[:, 0, None] + torch.arange(height, device=device)) % _NOISE_SIDE
    columns = (offset[:, 1, None] + torch.arange(width, device=device)) % _NOISE_SIDE
    grain = _noise(device)[:, rows[:, :, None], columns[:, None, :]].transpose(0, 1)
    lit = images * gain[:, :, None, None] * falling[:, None] + grain * noise[:, None, None, None]
    return lit.round_().clamp_(0, 255).to(torch.uint8)


# --- objects ----------------------------------------------------------------------------------------------------------


def _paint(canvas: Tensor, ids: Tensor, layouts: Sequence[Layout], size: tuple[int, int], zoom: float) -> None:
    """Paint all objects onto ``canvas`` [B · H · W, 3], and write their indices into ``ids`` [B · H · W]."""
    device = canvas.device
    counts = [len(layout.things) for layout in layouts]
    things = np.concatenate([layout.things for layout in layouts])
    scene = np.repeat(np.arange(len(layouts)), counts)
    depth = np.concatenate([np.arange(count) for count in counts])
    by_shape = np.argsort(things["shape"], kind="stable")
    things, scene, depth = things[by_shape], scene[by_shape], depth[by_shape]
    things["centre"] *= zoom
    things["scale"] *= zoom

    corner, wide, points = _windows(things, size)
    start = np.cumsum(points) - points
    thing, offset = _enumerated(points, device)
    numbers = {
        name: _sent(things[name], device)
        for name in ("centre", "scale", "angle", "rgb", "texture", "depth", "wave", "rim")
    }
    left, top, columns, image = (_sent(array, device)[thing] for array in (corner[:, 0], corner[:, 1], wide, scene))
    x, y = left + offset % columns, top + offset // columns
    centre, scale, angle = numbers["centre"][thing], numbers["scale"][thing], numbers["angle"][thing]
    across, down = (x + 0.5 - centre[:, 0]) / scale, (y + 0.5 - centre[:, 1]) / scale
    cos, sin = torch.cos(angle), torch.sin(angle)
    across, down = cos * across + sin * down, cos * down - sin * across

    ends = np.searchsorted(things["shape"], np.arange(len(SHAPES) + 1))
    edges = np.append(start, points.sum())[ends]
    distance = torch.cat([signed_distance(k, across[a:b], down[a:b]) for k, (a, b) in enumerate(pairwise(edges))])
    coverage = (0.5 - distance * scale).clamp(0, 1)
    rim = numbers["rim"][thing] * (1 + distance / _RIM).clamp(0, 1)
    grain = _noise(device)[0].flatten()[(y % _NOISE_SIDE) * _NOISE_SIDE + x % _NOISE_SIDE]
    darker = (1 - rim) * (1 - numbers["depth"][thing] * _texture(across, down, thing, numbers, grain))
    colour = numbers["rgb"][thing] * darker[:, None]
    pixel = (image * size[0] + y) * size[1] + x

    # From shape by shape to depth by depth: within one depth no two points share a pixel.
    by_depth = np.argsort(depth, kind="stable")
    thing, offset = _enumerated(points[by_depth], device)
    order = _sent(start[by_depth], device)[thing] + offset
    coverage, colour, pixel = coverage[order], colour[order], pixel[order]
    edges = np.cumsum(np.bincount(depth, points)).astype(int)
    for index, (a, b) in enumerate(pairwise(np.append(0, edges))):
        here, share = pixel[a:b], coverage[a:b]
        canvas.index_copy_(0, here, torch.lerp(canvas[here], colour[a:b], share[:, None]))
        ids.index_copy_(0, here, torch.where(share >= 0.5, index, ids[here]).to(torch.int16))


def _windows(things: NDArray[Any], size: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return each object's window in the image: left and top [T, 2], width [T] and number of pixels [T]."""
    lower, upper = extents(things["shape"], things["angle"])
    scale, limit = things["scale"][:, None], np.array(size[::-1])
    first = np.floor(things["centre"] + lower * scale - 1).clip(0, limit).astype(np.int64)
    last = np.ceil(things["centre"] + upper * scale + 1).clip(first, limit).astype(np.int64)
    sides = last - first
    return first, np.maximum(sides[:, 0], 1), sides.prod(1)


def _enumerated(points: NDArray[Any], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return for each point of objects with ``points`` [T] points each: its object, and its index within the object."""
    counts = _sent(points, device)
    total = int(points.sum())  # known on the host, so that the GPU is not synchronised
    owner = torch.repeat_interleave(torch.arange(len(points), device=device), counts, output_size=total)
    start = _sent(np.cumsum(points) - points, device)
    return owner, torch.arange(total, device=device) - start[owner]


def _texture(x: Tensor, y: Tensor, thing: Tensor, numbers: dict[str, Tensor], grain: Tensor) -> Tensor:
    """Return how much the texture darkens each point, 0 to 1."""
    frequency, direction, phase = numbers["wave"][thing].unbind(1)
    kind = numbers["texture"][thing]
    cos, sin = torch.cos(direction), torch.sin(direction)
    along, across = cos * x + sin * y, cos * y - sin * x
    wave, other = torch.sin(frequency * along + phase), torch.sin(frequency * across)
    darker = {
        "plain": torch.zeros_like(x),
        "stripes": (0.5 + 1.5 * wave).clamp(0, 1),
        "dots": (4 * wave * other - 1).clamp(0, 1),
        "gradient": (0.5 + along / 2).clamp(0, 1),
        "grain": (0.5 + grain / 3).clamp(0, 1),
    }
    return torch.stack([darker[name] for name in TEXTURES]).gather(0, kind[None].long())[0]
