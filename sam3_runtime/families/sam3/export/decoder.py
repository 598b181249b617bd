"""The decoder for export: prompt tokens and image features to boxes, scores and the masks of the best queries.

Rows are P prompts for one image (N = 1) or for P images (N = P). Features are not copied per prompt, except for the
smallest map: its tokens have N rows in the first self-attention and are repeated to P rows after it. The presence token
is row 0 of the queries throughout; its box is a dummy, and its position and box bias are zero. What the first decoder
layer computes from weights only is a constant. The masks' 1×1 convolution is applied to the queries instead of to the
pixels, which is the same product with a thousandth of the work. Weights come from the sub-modules of ``Sam3Model``.
Arithmetic on boxes is in separate modules, as a float16 graph keeps it in float32 (``islands.py``).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3_runtime.families.sam3.export.geometry import SinePosition
from sam3_runtime.families.sam3.export.layers import (
    Attention,
    AttentionForm,
    EncoderLayer,
    GroupNorm,
    Rows,
    add,
    additive_mask,
    gather_rows,
    reshape,
)

BOX_EPS = 1e-3
"""``eps`` of transformers' ``inverse_sigmoid``."""


class BoxCorners(nn.Module):
    """(x1, y1) and (x2, y2) of boxes."""

    def forward(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Convert boxes [..., 4] cxcywh to two corners [..., 2]."""
        centre, half = boxes[..., :2], boxes[..., 2:] * 0.5
        return centre - half, centre + half


class BoxDistance(nn.Module):
    """The signed logarithm of the distance of the image's rows or columns from the sides of boxes."""

    def forward(self, cell: Tensor, sides: Tensor) -> Tensor:
        """Compare ``cell`` [g, 1] with ``sides`` [..., 1, 2], all 0..1: [..., g, 2]."""
        distance = (cell - sides) * 8.0
        return torch.sign(distance) * (torch.log(torch.abs(distance) + 1.0) * (1.0 / math.log(8.0)))


class BoxRefinement(nn.Module):
    """Moves boxes by a change of their logits; coordinates stay ``BOX_EPS`` away from 0 and 1 before."""

    def forward(self, boxes: Tensor, change: Tensor) -> Tensor:
        """Return ``boxes`` [..., 4] cxcywh 0..1, moved."""
        logits = torch.log(boxes.clamp(min=BOX_EPS) / (1.0 - boxes).clamp(min=BOX_EPS))
        return torch.sigmoid(change + logits)


class DecoderLayer(nn.Module):
    """DETR decoder layer: queries attend to themselves, to the prompt, then to the image around their boxes."""

    def __init__(self, source: Any, heads: int, form: AttentionForm) -> None:
        super().__init__()
        self.self_attn = Attention(source.self_attn, heads, form)
        self.self_norm: nn.LayerNorm = source.self_attn_layer_norm
        self.text_attn = Attention(source.text_cross_attn, heads, form)
        self.text_norm: nn.LayerNorm = source.text_cross_attn_layer_norm
        self.vision_attn = Attention(source.vision_cross_attn, heads, form)
        self.vision_norm: nn.LayerNorm = source.vision_cross_attn_layer_norm
        self.mlp: nn.Module = source.mlp
        self.mlp_norm: nn.LayerNorm = source.mlp_layer_norm

    def attend_to_queries(self, x: Tensor, position: Tensor) -> Tensor:
        """Apply the self-attention to queries [P, 1 + K, C]."""
        placed = x + position
        out: Tensor = self.self_norm(x + self.self_attn(placed, placed, x))
        return out

    def forward(
        self, x: Tensor, position: Tensor, prompt: Tensor, bias: Tensor, key: Tensor, value: Tensor, around: Tensor
    ) -> Tensor:
        """Apply the layer after its self-attention to queries [P, 1 + K, C].

        ``bias`` is added to the scores of the ``prompt`` [P, L, C], ``around`` to those of the image [P, T, C].
        """
        x = self.text_norm(x + self.text_attn(x + position, prompt, prompt, bias))
        x = self.vision_norm(x + self.vision_attn(x + position, key, value, around))
        out: Tensor = self.mlp_norm(x + self.mlp(x))
        return out


class QueryDecoder(nn.Module):
    """The DETR decoder: image tokens [P, T, C] and a prompt to queries [P, 1 + K, C] (row 0: presence) and boxes."""

    cell: Tensor
    is_query: Tensor
    first_boxes: Tensor
    first_position: Tensor
    first_queries: Tensor
    first_bias_y: Tensor
    first_bias_x: Tensor

    def __init__(self, source: Any, grid: int, form: AttentionForm) -> None:
        super().__init__()
        self.grid, self.heads = grid, source.config.num_attention_heads
        layers = [DecoderLayer(layer, self.heads, form) for layer in source.layers]
        self.layers = nn.ModuleList(layers)
        self.sine = SinePosition(source.position_encoding)
        self._corners, self._distance, self._refine = BoxCorners(), BoxDistance(), BoxRefinement()
        self.position_head = self._position_head(source.ref_point_head)
        self.bias_x: nn.Module = source.box_rpb_embed_x
        self.bias_y: nn.Module = source.box_rpb_embed_y
        self.box_head: nn.Module = source.box_head
        self.norm: nn.LayerNorm = source.output_layer_norm
        queries = torch.cat([source.presence_token.weight, source.query_embed.weight]).unsqueeze(0)
        boxes = F.pad(source.reference_points.weight, (0, 0, 1, 0)).sigmoid().unsqueeze(0)
        self.register_buffer("cell", (torch.arange(grid) / grid).reshape(grid, 1), persistent=False)
        self.register_buffer("is_query", F.pad(torch.ones(queries.shape[1] - 1, 1), (0, 0, 1, 0)), persistent=False)
        position = self._place(boxes)
        self.register_buffer("first_boxes", boxes, persistent=False)
        self.register_buffer("first_position", position, persistent=False)
        self.register_buffer("first_queries", layers[0].attend_to_queries(queries, position), persistent=False)
        bias_y, bias_x = self._axis_biases(boxes)
        self.register_buffer("first_bias_y", bias_y.contiguous(), persistent=False)
        self.register_buffer("first_bias_x", bias_x.contiguous(), persistent=False)

    @staticmethod
    def _position_head(source: Any) -> Any:
        """Reorder the columns to (x, y, w, h), as transformers embeds boxes as (y, x, w, h)."""
        linear = source.layer1
        y, x, w, h = linear.weight.chunk(4, dim=1)
        made = nn.Linear(linear.in_features, linear.out_features, device="meta")
        made.weight = nn.Parameter(torch.cat([x, y, w, h], dim=1), requires_grad=False)
        made.bias = linear.bias
        head = copy.copy(source)
        head._modules = {**source._modules, "layer1": made}
        return head

    def _place(self, boxes: Tensor) -> Tensor:
        """Return the position of each query [P, 1 + K, C], from its box; zero for the presence token."""
        placed: Tensor = self.position_head(reshape(self.sine(boxes), 0, 0, -1)) * self.is_query
        return placed

    def _axis_biases(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a query adds to its scores of image rows and of image columns: each [P, heads, 1 + K, g]."""
        low, high = self._corners(boxes)
        sides = torch.stack([low, high], dim=-1).unsqueeze(-2)  # [P, 1 + K, xy, 1, low and high]
        logarithm = self._distance(self.cell, sides)
        bias_x = self.bias_x(logarithm[:, :, 0]).permute(0, 3, 1, 2) * self.is_query
        bias_y = self.bias_y(logarithm[:, :, 1]).permute(0, 3, 1, 2) * self.is_query
        return bias_y, bias_x

    def _spread(self, bias_y: Tensor, bias_x: Tensor) -> Tensor:
        return reshape(bias_y.unsqueeze(4) + bias_x.unsqueeze(3), 0, self.heads, bias_y.shape[2], self.grid**2)

    def _set_apart(self, image: Tensor) -> Tensor:
        """Return ``image`` [P, T, C] unchanged, through a pooling of single cells.

        TensorRT 8.6 cannot compile a kernel across the border between the DETR encoder and this decoder ("NVRTC
        Compilation failure" in its log), and then fuses no attention on either side. It never fuses across a pooling.
        """
        maps = reshape(image.permute(0, 2, 1), 0, image.shape[2], self.grid, self.grid)
        return reshape(F.max_pool2d(maps, 1), 0, image.shape[2], -1).permute(0, 2, 1)

    def forward(self, image: Tensor, position: Tensor, prompt: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Decode ``image`` tokens [P, T, C] with the ``prompt`` [P, L, C] and its ``bias``: queries and boxes."""
        image = self._set_apart(image)
        key = image + position
        x, boxes, placed = self.first_queries, self.first_boxes, self.first_position
        axis_biases = self.first_bias_y, self.first_bias_x
        for index, layer in enumerate(cast(Iterable[DecoderLayer], self.layers)):
            if index > 0:
                placed = self._place(boxes)
                axis_biases = self._axis_biases(boxes)
                x = layer.attend_to_queries(x, placed)
            x = layer(x, placed, prompt, bias, key, image, self._spread(*axis_biases))
            boxes = self._refine(boxes, self.box_head(self.norm(x)))
        return x, boxes


class Scoring(nn.Module):
    """Logits [P, K] of queries [P, K, C]: their product with the mean of the prompt's valid tokens."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.text_mlp: nn.Module = source.text_mlp
        self.text_norm: nn.LayerNorm = source.text_mlp_out_norm
        self.text_proj: nn.Linear = source.text_proj
        self.query_proj: nn.Linear = source.query_proj
        self.scale: float = source.scale
        self.limit: float = source.clamp_max_val

    def forward(self, queries: Tensor, prompt: Tensor, prompt_mask: Tensor) -> Tensor:
        """Score ``queries`` with the ``prompt`` [P, L, C], whose valid tokens are True in ``prompt_mask`` [P, L]."""
        text = self.text_norm(self.text_mlp(prompt) + prompt)
        valid = prompt_mask.to(text.dtype).unsqueeze(-1)
        mean = (text * valid).sum(dim=1, keepdim=True) / valid.sum(dim=1, keepdim=True).clamp(min=1.0)
        logits = self.query_proj(queries) @ self.text_proj(mean).permute(0, 2, 1)
        clamped: Tensor = (logits.squeeze(-1) * self.scale).clamp(-self.limit, self.limit)
        return clamped


class MaskHead(nn.Module):
    """Mask logits [P, Q, 4g, 4g] of queries [P, Q, C]."""

    pixel_weight: Tensor
    pixel_bias: Tensor

    def __init__(self, source: Any, grid: int, form: AttentionForm) -> None:
        super().__init__()
        self.grid, self.channels = grid, source.config.hidden_size
        self.norm: nn.LayerNorm = source.prompt_cross_attn_norm
        self.prompt_attn = Attention(source.prompt_cross_attn, source.config.num_attention_heads, form)
        self.convs = nn.ModuleList(source.pixel_decoder.conv_layers[:2])
        norms = source.pixel_decoder.norms[:2]
        self.norms = nn.ModuleList(GroupNorm(norm, grid << level) for level, norm in enumerate(norms, 1))
        self.embedder: nn.Module = source.mask_embedder
        projection: nn.Conv2d = source.instance_projection
        weight = projection.weight.reshape(projection.out_channels, -1)
        self.register_buffer("pixel_weight", weight.contiguous(), persistent=False)
        self.register_buffer("pixel_bias", projection.bias.reshape(-1, 1), persistent=False)  # type: ignore[union-attr]

    def forward(
        self, queries: Tensor, image: Tensor, skips: tuple[Tensor, ...], prompt: Tensor, bias: Tensor, rows: Rows
    ) -> Tensor:
        """Return the masks; ``image`` is [P, T, C], and ``skips`` are ``fpn_feat_1`` and ``fpn_feat_0``, [N, C, …]."""
        x = image + self.prompt_attn(self.norm(image), prompt, prompt, bias)
        x = reshape(x.permute(0, 2, 1), 0, self.channels, self.grid, self.grid)
        for conv, norm, skip in zip(self.convs, self.norms, skips, strict=True):
            x = torch.relu(norm(conv(add(skip, F.interpolate(x, scale_factor=2.0, mode="nearest"), rows))))
        embedding = self.embedder(queries)
        masks = (embedding @ self.pixel_weight) @ reshape(x, 0, self.channels, -1) + embedding @ self.pixel_bias
        return reshape(masks, 0, 0, 4 * self.grid, 4 * self.grid)


class Decoder(nn.Module):
    """The contract's decoder: the ``queries`` best of all, by logit, in descending order."""

    def __init__(self, parts: dict[str, Any], resolution: int, patch: int, queries: int, form: AttentionForm) -> None:
        super().__init__()
        grid = resolution // patch
        encoder, detr = parts["detr_encoder"], parts["detr_decoder"]
        self.queries, self.channels = queries, encoder.config.hidden_size
        heads = encoder.config.num_attention_heads
        self.encoder = nn.ModuleList(EncoderLayer(layer, heads, form) for layer in encoder.layers)
        self.decoder = QueryDecoder(detr, grid, form)
        self._corners = BoxCorners()
        self.presence_norm: nn.LayerNorm = detr.presence_layer_norm
        self.presence_head: nn.Module = detr.presence_head
        self.presence_limit: float = detr.clamp_presence_logit_max_val
        self.scoring = Scoring(parts["dot_product_scoring"])
        self.masks = MaskHead(parts["mask_decoder"], grid, form)

    def forward(
        self,
        fpn_feat_0: Tensor,
        fpn_feat_1: Tensor,
        fpn_feat_2: Tensor,
        fpn_pos_2: Tensor,
        prompt_features: Tensor,
        prompt_mask: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return masks [P, Q, 4g, 4g], boxes [P, Q, 4] xyxy 0..1, logits [P, Q], presence [P, 1] and indices [P, Q]."""
        rows = prompt_features.shape[0]
        bias = additive_mask(prompt_mask, prompt_features.dtype)
        image = reshape(fpn_feat_2, 0, self.channels, -1).permute(0, 2, 1)
        position = reshape(fpn_pos_2, 0, self.channels, -1).permute(0, 2, 1)
        for depth, layer in enumerate(self.encoder):
            context = prompt_features, prompt_features
            image = layer(image, *context, position=position, cross_bias=bias, is_repeated=depth > 0)
        x, boxes = self.decoder(image, position, prompt_features, bias)
        presence = self.presence_head(self.presence_norm(x[:, 0])).clamp(-self.presence_limit, self.presence_limit)
        all_queries = self.decoder.norm(x[:, 1:])
        logits = self.scoring(all_queries, prompt_features, prompt_mask)
        best, index = torch.topk(logits, self.queries, dim=1)
        corners = torch.cat(self._corners(gather_rows(boxes[:, 1:], index)), dim=-1)
        skips = (fpn_feat_1, fpn_feat_0)
        masks = self.masks(gather_rows(all_queries, index), image, skips, prompt_features, bias, rows)
        return masks, corners, best, presence, index
