"""Building blocks of the exported modules: attention, transformer layers, and a few ONNX operators.

Some operators are written into the graph directly, where PyTorch's own trace is too specific: a Reshape whose zeros
keep a dimension (no arithmetic on shapes in the graph), a Gather that repeats N rows to P, and an Add that broadcasts N
or 1 against P rows (PyTorch's tracer would require that N equals P). Outside of a trace they are ordinary PyTorch.
Masks are additive and finite in float16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKED = -1e4
"""Added to the score of a masked key: far below any score, and well within the range of float16."""

AttentionForm = Literal["fusable", "plain"]
Rows = int | torch.SymInt


def _operator(name: str, inputs: Sequence[Tensor], shape: Sequence[Any], **attributes: Any) -> Tensor:
    made: Tensor = torch.onnx.ops.symbolic(name, inputs, attributes, dtype=inputs[0].dtype, shape=shape)
    return made


def reshape(x: Tensor, *dims: int) -> Tensor:
    """Reshape ``x`` as in ONNX: 0 keeps the dimension of that index, and -1 takes what is left."""
    shape: list[Any] = [x.shape[index] if size == 0 else size for index, size in enumerate(dims)]
    if not torch.compiler.is_exporting():
        return x.reshape(shape)
    if -1 in shape:
        known = 1
        for size in shape:
            known = known if isinstance(size, int) and size == -1 else known * size
        shape[shape.index(-1)] = x.numel() // known
    return _operator("Reshape", (x, torch.tensor(dims)), shape)


def add(a: Tensor, b: Tensor, rows: Rows) -> Tensor:
    """Return ``a + b``, where the first dimension of either may be N, 1 or P = ``rows``."""
    if not torch.compiler.is_exporting():
        return a + b
    shape = torch.broadcast_shapes(a.shape[1:], b.shape[1:])  # type: ignore[no-untyped-call]
    return _operator("Add", (a, b), (rows, *shape))


def repeated(x: Tensor, like: Tensor) -> Tensor:
    """Return ``x`` [N, …] as [P, …], P being the rows of ``like``: row i of many, or the only one P times.

    A Gather, because its result has the dimension P by name. Where N rows meet P rows in a product instead, TensorRT
    8.6 either cannot compile a kernel for the operators around it (no attention is fused, and running N = 1 after N = P
    fails), or compiles one that reads P rows where there is one: all rows but the first are wrong, without a message.
    """
    if not torch.compiler.is_exporting():
        return x[torch.arange(like.shape[0], device=x.device).clamp(max=x.shape[0] - 1)]
    first, step = torch.tensor(0), torch.tensor(1)
    index = _operator("Range", (first, _count_rows(like), step), (like.shape[0],))
    index = torch.minimum(index, _count_rows(x) - 1)
    return _operator("Gather", (x, index), (like.shape[0], *x.shape[1:]), axis=0)


def _count_rows(x: Tensor) -> Tensor:
    # TensorRT 8.6 ignores the attributes `start` and `end` of Shape.
    sizes: Tensor = torch.onnx.ops.symbolic("Shape", (x,), {}, dtype=torch.int64, shape=(x.dim(),))
    return _operator("Gather", (sizes, torch.tensor(0)), (), axis=0)


def gather_rows(x: Tensor, index: Tensor) -> Tensor:
    """Return the rows ``index`` [P, Q] of each ``x`` [P, K, C], as [P, Q, C]."""
    index = index.unsqueeze(-1)
    if not torch.compiler.is_exporting():
        return x.gather(1, index.expand(-1, -1, x.shape[-1]))
    return _operator("GatherND", (x, index), (x.shape[0], index.shape[1], x.shape[2]), batch_dims=1)


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a mask [P, L], True for valid, to scores [P, 1, 1, L] to add."""
    return ((1.0 - mask.to(dtype)) * MASKED).unsqueeze(1).unsqueeze(1)


def scaled(linear: nn.Linear, factor: float) -> nn.Linear:
    """Return a copy of ``linear`` whose output is multiplied by ``factor``."""
    return fused([linear], [factor])


def fused(linears: Sequence[nn.Linear], factors: Sequence[float]) -> nn.Linear:
    """Return one Linear with the concatenated outputs of ``linears``, each multiplied by its factor."""
    parts = list(zip(linears, factors, strict=True))
    made = nn.Linear(linears[0].in_features, sum(linear.out_features for linear in linears), device="meta")
    made.weight = nn.Parameter(torch.cat([linear.weight * factor for linear, factor in parts]), requires_grad=False)
    made.bias = nn.Parameter(torch.cat([linear.bias * factor for linear, factor in parts]), requires_grad=False)
    return made


class Attention(nn.Module):
    """Multi-head attention with the weights of a ``Sam3Attention`` or ``CLIPAttention``.

    ``fusable`` folds the square root of the scale into the weights of both Q and K, so that MatMul, Softmax, MatMul
    are adjacent; ``plain`` scales the scores, as eager PyTorch does.
    """

    def __init__(self, source: Any, heads: int, form: AttentionForm) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim: int = source.q_proj.out_features // heads
        scale = self.head_dim**-0.5
        self.scale = scale if form == "plain" else None
        root = 1.0 if form == "plain" else scale**0.5
        self.q_proj = scaled(source.q_proj, root)
        self.k_proj = scaled(source.k_proj, root)
        self.v_proj: nn.Linear = source.v_proj
        self.o_proj: nn.Linear = source.out_proj if hasattr(source, "out_proj") else source.o_proj

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attend with queries [P, T, C] to keys and values [P, L, C]: [P, T, C]. ``bias`` is added to the scores."""
        q = self._split(self.q_proj(query)).permute(0, 2, 1, 3)
        k = self._split(self.k_proj(key)).permute(0, 2, 3, 1)
        v = self._split(self.v_proj(value)).permute(0, 2, 1, 3)
        scores = q @ k
        if self.scale is not None:
            scores = scores * self.scale
        if bias is not None:
            scores = scores + bias
        mixed = (F.softmax(scores, dim=-1) @ v).permute(0, 2, 1, 3)
        out: Tensor = self.o_proj(reshape(mixed, 0, 0, self.heads * self.head_dim))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return reshape(x, 0, 0, self.heads, self.head_dim)


class EncoderLayer(nn.Module):
    """A pre-norm layer of SAM3's encoders: tokens attend to themselves, then to a context, then pass an MLP."""

    def __init__(self, source: Any, heads: int, form: AttentionForm) -> None:
        super().__init__()
        self.norm1: nn.LayerNorm = source.layer_norm1
        self.self_attn = Attention(source.self_attn, heads, form)
        self.norm2: nn.LayerNorm = source.layer_norm2
        self.cross_attn = Attention(source.cross_attn, heads, form)
        self.norm3: nn.LayerNorm = source.layer_norm3
        self.mlp: nn.Module = source.mlp

    def forward(
        self,
        x: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        position: Tensor | None = None,
        self_bias: Tensor | None = None,
        cross_bias: Tensor | None = None,
        is_repeated: bool = True,
    ) -> Tensor:
        """Encode ``x`` [P, T, C], or [N, T, C] where not ``is_repeated`` yet, with a context [P, L, C]: [P, T, C].

        ``position`` is added to the queries and keys of the self-attention, the biases to the scores of each attention.
        """
        normed = self.norm1(x)
        placed = normed if position is None else normed + position
        x = x + self.self_attn(placed, placed, normed, self_bias)
        if not is_repeated:
            x = repeated(x, key)
        x = x + self.cross_attn(self.norm2(x), key, value, cross_bias)
        out: Tensor = x + self.mlp(self.norm3(x))
        return out


class GroupNorm(nn.Module):
    """``nn.GroupNorm`` of maps [B, C, side, side], without arithmetic on shapes."""

    unit: Tensor
    zero: Tensor

    def __init__(self, source: nn.GroupNorm, side: int) -> None:
        super().__init__()
        self.groups, self.channels, self.side, self.eps = source.num_groups, source.num_channels, side, source.eps
        self.weight = nn.Parameter(source.weight.reshape(-1, 1, 1), requires_grad=False)
        self.bias = nn.Parameter(source.bias.reshape(-1, 1, 1), requires_grad=False)
        self.register_buffer("unit", torch.ones(self.groups), persistent=False)
        self.register_buffer("zero", torch.zeros(self.groups), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``."""
        grouped = reshape(x, 0, self.groups, -1)
        if torch.compiler.is_exporting():
            inputs = (grouped, self.unit, self.zero)
            grouped = _operator("InstanceNormalization", inputs, grouped.shape, epsilon=self.eps)
        else:
            grouped = F.instance_norm(grouped, eps=self.eps)
        return reshape(grouped, 0, self.channels, self.side, self.side) * self.weight + self.bias
