"""The vision encoder for export: tokens stay in window order from the patch embedding to the neck.

LayerNorm, MLP and residuals work on single tokens in any order; a windowed layer is then a reshape, and a global layer
is correct in any order if its rotation tables are permuted alike. One permutation at each end remains. Q, K and V are
one product; the rows of Q and K are permuted within each head, so that the pairwise rotation becomes a half split; the
scale is folded into Q (``fusable``). The fourth level of the neck, which the detector does not use, is left out.

Where the grid does not fill whole windows it is padded: pad tokens are zero after the first LayerNorm of a windowed
layer and are not keys of a global one, as in transformers. The weights are those of a ``Sam3VisionModel`` whose config
had its image_size set first.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3_runtime.families.sam3.export.layers import AttentionForm, fused, reshape

IMAGES_ADDRESSED = 8
"""The batch at which no tensor of the graph has more elements than TensorRT before 10 can address, fused or not."""
_ADDRESSABLE = 2**31 - 1


class Windows:
    """The order of tokens: ``grid`` × ``grid`` patches, padded to windows of ``window`` × ``window``."""

    def __init__(self, grid: int, window: int) -> None:
        self.grid, self.window = grid, window
        self.across = -(-grid // window)
        self.side = self.across * window
        self.tokens = self.side**2
        self.pad = self.side - grid

    def order(self, table: Tensor) -> Tensor:
        """Convert a constant [g, g, C] in row order to [tokens, C] in window order; pads are zero."""
        padded = F.pad(table, (0, 0, 0, self.pad, 0, self.pad))
        split = padded.reshape(self.across, self.window, self.across, self.window, -1)
        return split.permute(0, 2, 1, 3, 4).reshape(self.tokens, -1).contiguous()

    def enter(self, features: Tensor) -> Tensor:
        """Convert a map [B, C, g, g] to tokens [B, tokens, C] in window order."""
        if self.pad:
            features = F.pad(features, (0, self.pad, 0, self.pad))
        channels = features.shape[1]
        split = reshape(features, 0, channels, self.across, self.window, self.across, self.window)
        return reshape(split.permute(0, 2, 4, 3, 5, 1), 0, self.tokens, channels)

    def leave(self, tokens: Tensor) -> Tensor:
        """Convert tokens [B, tokens, C] in window order to a map [B, C, g, g]."""
        channels = tokens.shape[2]
        split = reshape(tokens, 0, self.across, self.across, self.window, self.window, channels)
        features = reshape(split.permute(0, 5, 1, 3, 2, 4), 0, channels, self.side, self.side)
        return features[:, :, : self.grid, : self.grid] if self.pad else features


class RotaryAttention(nn.Module):
    """Self-attention within groups of ``length`` tokens, with a half-split rotation of Q and K.

    ``valid`` are the indices of the tokens that may be keys, where not all may. ``tokens`` is the number of an image:
    where the scores of all heads would be too many to address, heads attend in several parts.
    """

    cos: Tensor
    sin: Tensor
    valid: Tensor | None

    def __init__(
        self, source: Any, cos: Tensor, sin: Tensor, valid: Tensor | None, form: AttentionForm, tokens: int
    ) -> None:
        super().__init__()
        self.heads: int = source.num_attention_heads
        self.head_dim: int = source.head_dim
        self.length = cos.shape[0]
        self.parts = parts_of(self.heads, tokens * (self.length if valid is None else len(valid)))
        self.scale: float | None = source.scaling if form == "plain" else None
        query_factor = 1.0 if form == "plain" else source.scaling
        self.qkv = fused([source.q_proj, source.k_proj, source.v_proj], [query_factor, 1.0, 1.0])
        self._halve_rows()
        self.proj: nn.Linear = source.o_proj
        self.register_buffer("cos", torch.cat([cos, cos], dim=-1), persistent=False)
        self.register_buffer("sin", torch.cat([-sin, sin], dim=-1), persistent=False)
        self.register_buffer("valid", valid, persistent=False)

    def _halve_rows(self) -> None:
        """Move the even rows of every head of Q and K before the odd ones; V does not change."""
        within = torch.arange(self.head_dim).reshape(-1, 2).T.reshape(-1)
        count = 2 * self.heads
        rows = (torch.arange(count).unsqueeze(1) * self.head_dim + within).reshape(-1)
        rows = torch.cat([rows, torch.arange(count * self.head_dim, self.qkv.out_features)])
        self.qkv.weight.data = self.qkv.weight.data[rows]
        self.qkv.bias.data = self.qkv.bias.data[rows]

    def _rotate(self, x: Tensor) -> Tensor:
        half = self.head_dim // 2
        swapped = torch.cat([x[..., half:], x[..., :half]], dim=-1)
        return x * self.cos + swapped * self.sin

    def forward(self, x: Tensor) -> Tensor:
        """Attend within groups of tokens [B, tokens, C]."""
        tokens, channels = x.shape[1], x.shape[2]
        qkv = reshape(self.qkv(x), -1, self.length, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = self._rotate(qkv[0]), self._rotate(qkv[1]), qkv[2]
        if self.valid is not None:
            # Fewer keys instead of a mask: no node between the two products, and no arithmetic on pads.
            k, v = k.index_select(2, self.valid), v.index_select(2, self.valid)
        if self.parts == 1:
            mixed = self._attend(q, k, v)
        else:
            each = [every.chunk(self.parts, dim=1) for every in (q, k, v)]
            mixed = torch.cat([self._attend(*some) for some in zip(*each, strict=True)], dim=1)
        out: Tensor = self.proj(reshape(mixed.permute(0, 2, 1, 3), -1, tokens, channels))
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(2, 3)
        if self.scale is not None:
            scores = scores * self.scale
        return F.softmax(scores, dim=-1) @ v


def parts_of(heads: int, scores: int) -> int:
    """Return into how many parts to split ``heads``, each of which has ``scores`` scores for an image."""
    fitting = (parts for parts in range(1, heads + 1) if heads % parts == 0)
    return next((n for n in fitting if IMAGES_ADDRESSED * heads // n * scores <= _ADDRESSABLE), heads)


class VisionLayer(nn.Module):
    """A pre-norm layer; ``keep`` [tokens, 1] is zero for pads, in a windowed layer of a padded grid."""

    keep: Tensor | None

    def __init__(self, source: Any, attn: RotaryAttention, keep: Tensor | None) -> None:
        super().__init__()
        self.norm1: nn.LayerNorm = source.layer_norm1
        self.attn = attn
        self.norm2: nn.LayerNorm = source.layer_norm2
        self.mlp: nn.Module = source.mlp
        self.register_buffer("keep", keep, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Encode tokens [B, tokens, C]."""
        normed = self.norm1(x)
        if self.keep is not None:
            normed = normed * self.keep
        x = x + self.attn(normed)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionEncoder(nn.Module):
    """``images`` [B, 3, R, R] to ``fpn_feat_0/1/2`` [B, C, 4g/2g/g, …] and ``fpn_pos_2`` [1, C, g, g]."""

    position: Tensor
    sine: Tensor

    def __init__(self, model: Any, resolution: int, form: AttentionForm) -> None:
        super().__init__()
        config = model.config.backbone_config
        backbone = model.backbone
        self.windows = Windows(resolution // config.patch_size, config.window_size)
        self.patch_embed: nn.Conv2d = backbone.embeddings.patch_embeddings.projection
        table = self._tile(backbone.embeddings.position_embeddings)
        self.register_buffer("position", self.windows.order(table), persistent=False)
        self.norm: nn.LayerNorm = backbone.layer_norm
        self.layers = nn.ModuleList(self._layer(layer, form) for layer in backbone.layers)
        self.neck = nn.ModuleList(model.neck.fpn_layers[:3])
        grid = self.windows.grid
        shape = torch.Size((1, model.config.fpn_hidden_size, grid, grid))
        sine = model.neck.position_encoding(shape, torch.device("cpu"), torch.float32)
        self.register_buffer("sine", sine.contiguous(), persistent=False)

    def _tile(self, positions: Tensor) -> Tensor:
        """Repeat the position table [1, p², C] over the grid: [g, g, C]."""
        side = round(positions.shape[1] ** 0.5)
        index = torch.arange(self.windows.grid) % side
        return positions.reshape(side, side, -1)[index][:, index]

    def _layer(self, source: Any, form: AttentionForm) -> VisionLayer:
        windows = self.windows
        angles = (source.position_ids[..., None].float() * source.rotary_emb.inv_freq).flatten(1)
        keep = windows.order(torch.ones(windows.grid, windows.grid, 1)) if windows.pad else None
        valid = None
        if source.window_size == 0:
            angles = windows.order(angles.reshape(windows.grid, windows.grid, -1))
            valid = None if keep is None else keep.squeeze(1).nonzero().squeeze(1)
            keep = None
        # In float64, so that the tables are the same bytes on every CPU.
        cos, sin = angles.double().cos().float(), angles.double().sin().float()
        return VisionLayer(source, RotaryAttention(source.attention, cos, sin, valid, form, windows.tokens), keep)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Encode [B, 3, R, R] → levels [B, C, 4g, 4g], [B, C, 2g, 2g], [B, C, g, g], positions [1, C, g, g]."""
        x = self.norm(self.windows.enter(self.patch_embed(images)) + self.position)
        for layer in self.layers:
            x = layer(x)
        features = self.windows.leave(x)
        return (*(level(features) for level in self.neck), self.sine)
