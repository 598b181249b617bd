"""The text encoder for export: CLIP's text transformer and SAM3's projection, over a fixed number of tokens.

Causality and padding are one additive mask. CLIP's own pooled projection is not part of SAM3. Weights come from
transformers' ``CLIPTextModel`` and the ``text_projection`` of ``Sam3Model``; the runtime tokenises.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sam3_runtime.families.sam3.export.layers import MASKED, Attention, AttentionForm, additive_mask


class TextLayer(nn.Module):
    """A pre-norm layer of CLIP's text transformer."""

    def __init__(self, source: Any, heads: int, form: AttentionForm) -> None:
        super().__init__()
        self.norm1: nn.LayerNorm = source.layer_norm1
        self.attn = Attention(source.self_attn, heads, form)
        self.norm2: nn.LayerNorm = source.layer_norm2
        self.mlp: nn.Module = source.mlp

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Encode tokens [P, T, C]; ``bias`` [P, 1, T, T] is added to the scores."""
        normed = self.norm1(x)
        x = x + self.attn(normed, normed, normed, bias)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class TextEncoder(nn.Module):
    """``input_ids``, ``attention_mask`` [P, T] to ``text_features`` [P, T, C] and ``text_mask`` [P, T]."""

    causal: Tensor

    def __init__(self, model: Any, projection: nn.Linear, form: AttentionForm) -> None:
        super().__init__()
        tokens = model.config.max_position_embeddings
        self.token_embedding: nn.Embedding = model.embeddings.token_embedding
        self.position: nn.Parameter = model.embeddings.position_embedding.weight
        self.layers = nn.ModuleList(
            TextLayer(layer, model.config.num_attention_heads, form) for layer in model.encoder.layers
        )
        self.norm: nn.LayerNorm = model.final_layer_norm
        self.projection = projection
        self.register_buffer("causal", torch.full((tokens, tokens), MASKED).triu(1), persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the tokens of P prompts: int64 [P, T] twice → features [P, T, C] and mask bool [P, T]."""
        x = self.token_embedding(input_ids) + self.position
        text_mask = attention_mask.bool()
        bias = additive_mask(text_mask, x.dtype) + self.causal
        for layer in self.layers:
            x = layer(x, bias)
        return self.projection(self.norm(x)), text_mask
