"""The geometry encoder for export: encodes example boxes, with the image's features inside, as prompt tokens.

RoIAlign is separable: for each box, W_y [7, g] · map · W_xᵀ [g, 7], where a row of W averages the hat functions at
the sample positions of its bin. So it is two matrix products, without a plugin or a coordinate mode. The CLS token is
appended after all boxes; transformers puts it after the last valid one, so that only the order of tokens differs.
Features of N images, N being 1 or P, are repeated to P prompts first. Weights come from a ``Sam3GeometryEncoder``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sam3_runtime.families.sam3.export.layers import AttentionForm, EncoderLayer, additive_mask, repeated, reshape
from sam3_runtime.families.sam3.parts import BOX_PADDING_LABEL

LARGEST_BOX = 2
"""In sides of the image; a larger box is sampled more coarsely than by torchvision."""


class SinePosition(nn.Module):
    """transformers' sine embedding of coordinates, F values each: sin(x · frequency + phase), cosine being a phase."""

    frequency: Tensor
    phase: Tensor

    def __init__(self, source: Any) -> None:
        super().__init__()
        features = source.num_position_features
        index = torch.arange(features, dtype=torch.float64)
        period = source.temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / features)
        self.register_buffer("frequency", (source.scale / period).float(), persistent=False)
        self.register_buffer("phase", (index % 2 * (torch.pi / 2)).float(), persistent=False)

    def forward(self, coordinates: Tensor) -> Tensor:
        """Embed coordinates [..., k] 0..1: [..., k, F]."""
        return torch.sin(coordinates.unsqueeze(-1) * self.frequency + self.phase)


class BoxSampling(nn.Module):
    """The rows of W for one axis.

    Equal to ``torchvision.ops.roi_align(aligned=False, sampling_ratio=-1)``: ceil(side / bins) samples per bin, sides
    of at least 1, positions clamped to 0…g-1 and not counted outside -1…g.
    """

    bin: Tensor
    slot: Tensor
    cell: Tensor

    def __init__(self, grid: int, bins: int) -> None:
        super().__init__()
        self.grid, self.bins = grid, bins
        self.slots = -(-LARGEST_BOX * grid // bins) + 1
        self.register_buffer("bin", torch.arange(bins, dtype=torch.float32).reshape(bins, 1), persistent=False)
        self.register_buffer("slot", torch.arange(self.slots, dtype=torch.float32), persistent=False)
        self.register_buffer("cell", torch.arange(grid, dtype=torch.float32), persistent=False)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Return the rows [P, n, bins, grid] of boxes from ``low`` to ``high`` [P, n] in patches."""
        size = (high - low).clamp(min=1.0) / self.bins
        count = torch.ceil(size).clamp(max=float(self.slots)).unsqueeze(-1).unsqueeze(-1)
        size, low = size.unsqueeze(-1).unsqueeze(-1), low.unsqueeze(-1).unsqueeze(-1)
        position = low + (self.bin + (self.slot + 0.5) / count) * size  # [P, n, bins, slots]
        counted = (self.slot < count) & (position >= -1.0) & (position <= float(self.grid))
        distance = position.clamp(0.0, float(self.grid - 1)).unsqueeze(-1) - self.cell
        hat = torch.relu(1.0 - torch.abs(distance)) * counted.to(low.dtype).unsqueeze(-1)
        return hat.sum(dim=3) / count


class BoxSides(nn.Module):
    """The corners of boxes in patches."""

    def __init__(self, grid: int) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Convert boxes [P, n, 4] cxcywh 0..1 to (x1, y1) and (x2, y2) in patches, each [P, n, 2]."""
        centre, half = boxes[..., :2] * self.grid, boxes[..., 2:] * (0.5 * self.grid)
        return centre - half, centre + half


class GeometryEncoder(nn.Module):
    """Boxes [P, n, 4] cxcywh 0..1 and labels [P, n] to ``geometry_features`` [P, n+1, C] and ``geometry_mask``."""

    negative: Tensor
    positive: Tensor
    cls: Tensor
    cls_label: Tensor

    def __init__(self, model: Any, resolution: int, patch: int, form: AttentionForm) -> None:
        super().__init__()
        config = model.config
        self.grid, self.channels, self.bins = resolution // patch, config.hidden_size, config.roi_size
        self.sine = SinePosition(model.position_encoding)
        self._sides = BoxSides(self.grid)
        self.sampling = BoxSampling(self.grid, self.bins)
        self.box_project: nn.Linear = model.boxes_direct_project
        self.pool_project = self._pool_project(model.boxes_pool_project)
        self.position_project: nn.Linear = self._position_project(model.boxes_pos_enc_project)
        self.vision_norm: nn.LayerNorm = model.vision_layer_norm
        self.final_project: nn.Linear = model.final_proj
        self.prompt_norm: nn.LayerNorm = model.prompt_layer_norm
        self.layers = nn.ModuleList(EncoderLayer(layer, config.num_attention_heads, form) for layer in model.layers)
        self.output_norm: nn.LayerNorm = model.output_layer_norm
        negative, positive = model.label_embed.weight
        self.register_buffer("negative", negative, persistent=False)
        self.register_buffer("positive", positive - negative, persistent=False)
        self.register_buffer("cls", model.cls_embed.weight.reshape(1, 1, -1), persistent=False)
        self.register_buffer("cls_label", torch.ones(1, 1, dtype=torch.int64), persistent=False)

    def _pool_project(self, conv: nn.Conv2d) -> nn.Linear:
        """Convert a convolution over the whole 7×7 patch to a product with columns in (y, x, channel) order."""
        made = nn.Linear(self.bins**2 * self.channels, conv.out_channels, device="meta")
        made.weight = nn.Parameter(conv.weight.permute(0, 2, 3, 1).reshape(conv.out_channels, -1), requires_grad=False)
        made.bias = conv.bias  # type: ignore[assignment]
        return made

    def _position_project(self, linear: nn.Linear) -> nn.Linear:
        """Reorder the columns to (x, y, w, h), as transformers feeds (sine of y, sine of x, h, w)."""
        features = (linear.in_features - 2) // 2
        y, x, h, w = torch.split(linear.weight, [features, features, 1, 1], dim=1)
        made = nn.Linear(linear.in_features, linear.out_features, device="meta")
        made.weight = nn.Parameter(torch.cat([x, y, w, h], dim=1), requires_grad=False)
        made.bias = linear.bias
        return made

    def _pool(self, boxes: Tensor, features: Tensor) -> Tensor:
        """Apply RoIAlign to normalised maps [P, g², C] for boxes [P, n, 4]: [P, n, 49 C]."""
        low, high = self._sides(boxes)
        down = reshape(self.sampling(low[..., 1], high[..., 1]), 0, -1, self.grid)
        pooled = down @ reshape(features, 0, self.grid, self.grid * self.channels)
        pooled = reshape(pooled, 0, -1, self.bins, self.grid, self.channels)
        across = self.sampling(low[..., 0], high[..., 0]).unsqueeze(2)
        return reshape(across @ pooled, 0, 0, self.bins**2 * self.channels)

    def _embed(self, boxes: Tensor, labels: Tensor, features: Tensor) -> Tensor:
        pooled = self.pool_project(self._pool(boxes, features))
        position = torch.cat([reshape(self.sine(boxes[..., :2]), 0, 0, -1), boxes[..., 2:]], dim=-1)
        label = self.negative + (labels == 1).to(boxes.dtype).unsqueeze(-1) * self.positive
        embedded: Tensor = label + (self.box_project(boxes) + pooled + self.position_project(position))
        return embedded

    def forward(
        self, input_boxes: Tensor, input_boxes_labels: Tensor, fpn_feat_2: Tensor, fpn_pos_2: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode the boxes with the features [N, C, g, g] and their position [1, C, g, g]."""
        image = repeated(reshape(fpn_feat_2, 0, self.channels, -1).permute(0, 2, 1), input_boxes)
        position = reshape(fpn_pos_2, 0, self.channels, -1).permute(0, 2, 1)
        embedded = self._embed(input_boxes, input_boxes_labels, self.vision_norm(image))
        # CLS tokens are made from the tensor that they join, as TensorRT 8.6 cannot infer that both have P rows.
        x = torch.cat([embedded, embedded[:, :1] * 0 + self.cls], dim=1)
        labels = torch.cat([input_boxes_labels, input_boxes_labels[:, :1] * 0 + self.cls_label], dim=1)
        mask = labels != BOX_PADDING_LABEL
        bias = additive_mask(mask, x.dtype)
        x = self.prompt_norm(self.final_project(x))
        key = image + position
        for layer in self.layers:
            x = layer(x, key, image, self_bias=bias)
        return self.output_norm(x), mask
