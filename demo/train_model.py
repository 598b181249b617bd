"""``Sam3Model`` for training: many prompts per image, the outputs of every decoder layer, any resolution.

The weights are the model's own, and the outputs are those of its ``forward`` (tests compare the two). A second group of
queries and a head over the patches are added; they are used in training alone and are not saved. Independent of scenes.

The detector's loops are implemented again here, because six prompts per image make its tensors large: both groups of
queries go through the decoder together, the attention bias of queries by pixels is never materialised, results that the
rows of an image share are computed once, and the host is never synchronised, so that a step can be recorded as a CUDA
graph.
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align
from transformers import Sam3Model
from transformers.models.sam3.modeling_sam3 import Sam3ViTLayer, box_cxcywh_to_xyxy, inverse_sigmoid

from sam3_runtime.families.sam3.parts import BOX_PADDING_LABEL

PRIOR = 0.01
"""Initial score of a query: most of the 200 match no object, and would dominate the loss if it were one half."""
_MOST_PRESENCE = 10.0  # transformers' clamp of the presence logit
_LEVELS = 3  # levels of the neck that the detector reads
_ANCHOR_SIDE = 0.2  # of the image: the queries' initial box size
_EMBEDDING_STD = {"position_embedding": 0.1, "position_embeddings": 0.1}
_RESIDUAL, _RESIDUAL_GAIN = ("o_proj.weight", "out_proj.weight", "fc2.weight"), 0.5  # of the residual branches


@dataclass(frozen=True)
class Answers:
    """The outputs of one group of Q queries at each of L layers, float32: ``logits`` [L, R, Q], ``boxes`` [L, R, Q, 4]
    xyxy from 0 to 1, ``presence`` logits [L, R], ``hidden`` [R, Q, C] of each layer."""

    logits: Tensor
    boxes: Tensor
    presence: Tensor
    hidden: tuple[Tensor, ...]


@dataclass(frozen=True)
class Outputs:
    """``kept``: the model's own queries; ``many``: those of training, if any. ``pixels`` [M, C, 4g · 4g]: the features
    that masks are made from, and ``semantic`` logits [M, 4g, 4g], of the rows ``asked``. ``pixel_logits`` [B, classes,
    2g, 2g]."""

    kept: Answers
    many: Answers | None
    pixels: Tensor
    semantic: Tensor
    pixel_logits: Tensor


@dataclass(frozen=True)
class _Places:
    """Position encodings of a grid of g × g patches: ``rotary`` of the backbone; ``sine`` [1, g², C]; the ``edges`` of
    patches [g], 0 to 1; and the row and column of each patch, one-hot, ``rows_and_columns`` [g², 2g]."""

    rotary: Tensor
    sine: Tensor
    edges: Tensor
    rows_and_columns: Tensor


class Trainee(nn.Module):
    """``sam3`` with phrases ``input_ids``, ``attention_mask`` int64 [V, tokens] that prompts refer to by index.

    ``many`` queries are trained one-to-many beside the model's own; ``pixel_classes`` are predicted from the patches.
    """

    input_ids: Tensor
    attention_mask: Tensor
    reading: Tensor

    def __init__(self, sam3: Any, input_ids: Tensor, attention_mask: Tensor, many: int, pixel_classes: int) -> None:
        super().__init__()
        self.sam3: Sam3Model = sam3
        used = int(attention_mask.sum(1).max())  # padding beyond the longest phrase is never used
        self.register_buffer("input_ids", input_ids[:, :used], persistent=False)
        self.register_buffer("attention_mask", attention_mask[:, :used], persistent=False)
        channels = sam3.config.detr_decoder_config.hidden_size
        self.many_queries = nn.Embedding(many, channels) if many else None
        self.many_points = nn.Embedding(many, 4) if many else None
        self.pixel_head = nn.Linear(self._vit.hidden_size, 4 * pixel_classes)
        seen = self.attention_mask[:, None, None].bool()  # CLIP's phrases are read from left to right
        self.register_buffer("reading", seen & seen.new_ones(used, used).tril(), persistent=False)
        self._places: dict[int, _Places] = {}
        self._initialise()

    @property
    def _vit(self) -> Any:
        return self.sam3.config.vision_config.backbone_config

    @property
    def patch(self) -> int:
        return int(self._vit.patch_size)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Initialise the weights. transformers uses a standard deviation of 0.02, meant for widths of 256 and more."""
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight") or ".norms." in name or "layer_norm" in name:
                continue
            if parameter.dim() < 2:
                parameter.zero_()
            elif "embed" in name.split(".")[-2] or name.endswith("position_embeddings") or "token" in name:
                nn.init.normal_(parameter, std=next((s for k, s in _EMBEDDING_STD.items() if k in name), 0.5))
            else:
                nn.init.xavier_uniform_(parameter, gain=_RESIDUAL_GAIN if name.endswith(_RESIDUAL) else 1.0)
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # no scene is repeated, so there is no overfitting
        for layer in self.sam3.vision_encoder.backbone.layers:
            layer.layer_norm1.__class__ = layer.layer_norm2.__class__ = _ProjectedNorm
        nn.init.normal_(self.pixel_head.weight, std=0.01)
        decoder, scoring = self.sam3.detr_decoder, self.sam3.dot_product_scoring
        nn.init.zeros_(decoder.box_head.layer3.weight)
        decoder.reference_points.weight.copy_(_anchors(decoder.reference_points.num_embeddings))
        if self.many_points is not None and self.many_queries is not None:
            self.many_points.weight.copy_(_anchors(self.many_points.num_embeddings))
            nn.init.normal_(self.many_queries.weight, std=0.5)
        # The score is a product of two projections: equal and opposite biases make it log(PRIOR / (1 - PRIOR)).
        bias = (math.log((1 - PRIOR) / PRIOR) / (scoring.text_proj.out_features * scoring.scale)) ** 0.5
        scoring.text_proj.bias.fill_(bias)
        scoring.query_proj.bias.fill_(-bias)
        self._freeze_unused()

    def _freeze_unused(self) -> None:
        """Freeze what the detector never reads: the neck's coarsest level, CLIP's projection, a third upsampling."""
        neck, pyramid = self.sam3.vision_encoder.neck, self.sam3.mask_decoder.pixel_decoder
        for module in (
            neck.fpn_layers[_LEVELS:],
            self.sam3.text_encoder.text_projection,
            pyramid.conv_layers[_LEVELS - 1 :],
            pyramid.norms[_LEVELS - 1 :],
        ):
            module.requires_grad_(False)

    # --- the parts ----------------------------------------------------------------------------------------------------

    def _at(self, grid: int, device: torch.device) -> _Places:
        """Return the positions of ``grid`` × ``grid`` patches, and set those of the backbone's global layers."""
        if grid not in self._places:
            vit = copy.deepcopy(self._vit)
            vit.image_size = grid * self.patch
            neck = self.sam3.vision_encoder.neck
            shape = torch.Size((1, neck.config.fpn_hidden_size, grid, grid))
            sine = neck.position_encoding(shape, device, torch.float32)
            one = torch.eye(grid, device=device)
            self._places[grid] = _Places(
                rotary=Sam3ViTLayer.precompute_positions(vit, 0).to(device),
                sine=sine.flatten(2).transpose(1, 2).contiguous(),
                edges=torch.arange(grid, device=device, dtype=torch.float32) / grid,
                rows_and_columns=torch.cat([one.repeat_interleave(grid, 0), one.repeat(grid, 1)], 1),
            )
        places = self._places[grid]
        for layer in self.sam3.vision_encoder.backbone.layers:
            if layer.window_size == 0:
                layer.position_ids = places.rotary
        return places

    def encode_images(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return features at 4, 2 and 1 times the grid [B, C, .., ..], and pixel logits."""
        vision = self.sam3.vision_encoder
        grid = pixels.shape[-1] // self.patch
        self._at(grid, pixels.device)
        patches = vision.backbone(pixels).last_hidden_state
        seen = F.pixel_shuffle(self.pixel_head(patches).transpose(1, 2).unflatten(2, (grid, grid)), 2)
        spatial = patches.view(len(pixels), grid, grid, -1).permute(0, 3, 1, 2)
        return [layer(spatial) for layer in vision.neck.fpn_layers[:_LEVELS]], seen

    def encode_prompts(
        self, phrase: Tensor, coarse: Tensor, example: Tensor, boxes: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return prompt features [R, tokens, C] and their mask, bool [R, tokens]: words, then boxes (last rows)."""
        texts = self.sam3.get_text_features(self.input_ids, self.reading).pooler_output
        tokens, mask = texts[phrase].float(), self.attention_mask[phrase].bool()
        shown, counts = self.encode_examples(coarse, example, boxes, labels)
        words = (0, 0, 0, 0, len(phrase) - len(example), 0)  # rows without boxes come first
        return torch.cat([tokens, F.pad(shown.float(), words)], 1), torch.cat([mask, F.pad(counts, words[2:])], 1)

    def encode_examples(self, coarse: Tensor, example: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Run the geometry encoder: a token for each box and one for all, [rows, n + 1, C], and their mask."""
        geometry, grid, shape = self.sam3.geometry_encoder, coarse.shape[-1], (*boxes.shape[:2], -1)
        with torch.autocast(boxes.device.type, enabled=False):  # RoIAlign has no bfloat16, and positions need more
            normed = geometry.vision_layer_norm(coarse.float().permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            on = example.float()[:, None, None].expand(-1, boxes.shape[1], -1)
            regions = torch.cat([on, box_cxcywh_to_xyxy(boxes) * grid], -1).flatten(0, 1)
            pooled = geometry.boxes_pool_project(roi_align(normed, regions, geometry.roi_size)).view(shape)
            places = geometry._encode_box_coordinates(*boxes.flatten(0, 1).unbind(-1)).view(shape)
            tokens = geometry.boxes_direct_project(boxes) + pooled + geometry.boxes_pos_enc_project(places)
            tokens = tokens + geometry.label_embed(labels.clamp(min=0))
            tokens = torch.cat([tokens, geometry.cls_embed.weight.expand(len(tokens), 1, -1)], 1)
            tokens = geometry.prompt_layer_norm(geometry.final_proj(tokens))
        mask = F.pad(labels != BOX_PADDING_LABEL, (0, 1), value=True)
        pixels = coarse.flatten(2).transpose(1, 2)
        placed = pixels + self._at(grid, coarse.device).sine.to(pixels.dtype)
        for layer in geometry.layers:
            seen = layer.layer_norm1(tokens)
            tokens = tokens + _attend(layer.self_attn, seen, seen, seen, mask)
            # Keys and values are computed once per image, and then copied to the rows that attend to it.
            look = layer.cross_attn
            query, key, value = look.q_proj(layer.layer_norm2(tokens)), look.k_proj(placed), look.v_proj(pixels)
            tokens = tokens + _looked_up(look, query, key[example], value[example])
            tokens = tokens + layer.mlp(layer.layer_norm3(tokens))
        return geometry.output_layer_norm(tokens), mask

    def encode_rows(self, coarse: Tensor, prompts: Tensor, mask: Tensor) -> Tensor:
        """Run the detector's encoder: the features of each row's image, conditioned on its prompt, [R, g², C]."""
        stream = coarse.flatten(2).transpose(1, 2)
        sine = self._at(coarse.shape[-1], coarse.device).sine.to(stream.dtype)
        tokens = _as_projected(prompts)
        for index, layer in enumerate(self.sam3.detr_encoder.layers):
            seen = _normed(layer.layer_norm1, stream)
            placed = seen + sine
            stream = stream + _attend(layer.self_attn, placed, placed, seen)
            if index == 0:  # until here the rows of an image are equal
                stream = stream.repeat(len(prompts) // len(coarse), 1, 1)
            stream = stream + _attend(layer.cross_attn, _normed(layer.layer_norm2, stream), tokens, tokens, mask)
            stream = stream + layer.mlp(_normed(layer.layer_norm3, stream))
        return stream

    def decode(self, memory: Tensor, prompts: Tensor, mask: Tensor) -> tuple[Answers, Answers | None]:
        """Run the decoder over encoded rows [R, g², C]: the model's own queries and, in training, the second group.

        Both groups run together, each with its own presence token in front, and attend only to themselves.
        """
        decoder, grid = self.sam3.detr_decoder, math.isqrt(memory.shape[1])
        places = self._at(grid, memory.device)
        groups = [(decoder.query_embed.weight, decoder.reference_points.weight)]
        if self.training and self.many_queries is not None and self.many_points is not None:
            groups.append((self.many_queries.weight, self.many_points.weight))
        counts = [1 + len(queries) for queries, _ in groups]
        begin = torch.cat([part for queries, _ in groups for part in (decoder.presence_token.weight, queries)])
        points = torch.cat([F.pad(points, (0, 0, 1, 0)) for _, points in groups])  # presence gets an unused box
        queries = torch.cat([F.pad(torch.ones_like(q[:, :1], dtype=torch.bool), (0, 0, 1, 0)) for q, _ in groups])
        hidden, boxes = begin[None], points.sigmoid()[None]  # all rows begin equal: one is enough
        before = boxes  # boxes before each layer; gradients reach the layer before only through these
        looks = [layer.vision_cross_attn for layer in decoder.layers]
        keys = _projected(memory + places.sine.to(memory.dtype), [look.k_proj for look in looks])
        values = _projected(memory, [look.v_proj for look in looks])
        tokens = _as_projected(prompts)
        sought, offset = self._scoring(prompts, mask)
        logits, found, presence, each_hidden = [], [], [], []
        for layer, key, value in zip(decoder.layers, keys, values, strict=True):
            position = decoder.ref_point_head(decoder.position_encoding.encode_boxes(boxes)) * queries
            placed = _as_projected(hidden + position)
            seen = _attend_within(layer.self_attn, placed, hidden, counts)
            hidden = layer.self_attn_layer_norm(hidden + seen).expand(len(memory), -1, -1)
            seen = _attend(layer.text_cross_attn, hidden + position, tokens, tokens, mask)
            hidden = layer.text_cross_attn_layer_norm(hidden + seen)
            nearness = (self._nearness(boxes, places) * queries).expand(len(memory), -1, -1, -1)
            seen = _attend_near(
                layer.vision_cross_attn, hidden + position, key, value, nearness, places.rows_and_columns
            )
            hidden = layer.vision_cross_attn_layer_norm(hidden + seen)
            hidden = layer.mlp_layer_norm(hidden + layer.mlp(hidden))
            token = decoder.presence_head(decoder.presence_layer_norm(hidden[:, :1]))
            presence.append(token.float().flatten().clamp(-_MOST_PRESENCE, _MOST_PRESENCE))
            with torch.autocast(memory.device.type, enabled=False):
                answer = decoder.output_layer_norm(hidden.float())
                moved = decoder.box_head(answer)
                found.append((inverse_sigmoid(before) + moved).sigmoid())
                logits.append((torch.bmm(answer, sought) + offset).squeeze(-1))
                before = (inverse_sigmoid(boxes) + moved).sigmoid()
            boxes = before.detach()
            each_hidden.append(answer)
        limit = self.sam3.dot_product_scoring.clamp_max_val
        every = torch.stack(logits).clamp(-limit, limit), box_cxcywh_to_xyxy(torch.stack(found)), torch.stack(presence)
        parts = [(end - count + 1, end) for count, end in zip(counts, itertools.accumulate(counts), strict=True)]
        answers = [
            Answers(every[0][:, :, a:b], every[1][:, :, a:b], every[2], tuple(one[:, a:b] for one in each_hidden))
            for a, b in parts
        ]
        return answers[0], answers[1] if len(answers) > 1 else None

    def _scoring(self, prompts: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factor [R, C, 1] and the offset [R, 1, 1] that turn a query's features into its score: the product
        of two projections, with that of the queries merged into the prompt's."""
        scoring = self.sam3.dot_product_scoring
        with torch.autocast(prompts.device.type, enabled=False):
            texts = scoring.text_mlp_out_norm(scoring.text_mlp(prompts) + prompts)
            text = scoring.text_proj(scoring._pool_text_features(texts, mask)) * scoring.scale
            project = scoring.query_proj
            return (text @ project.weight).unsqueeze(2), (text @ project.bias)[:, None, None]

    def _nearness(self, boxes: Tensor, places: _Places) -> Tensor:
        """Return the bias of each query's box for the rows and columns of patches, [R, heads, T, 2g]:
        ``_get_rpb_matrix`` before the two are added."""
        decoder = self.sam3.detr_decoder
        corners = box_cxcywh_to_xyxy(boxes)
        parts = []
        embeds = decoder.box_rpb_embed_y, decoder.box_rpb_embed_x
        for embed, sides in zip(embeds, (corners[..., 1::2], corners[..., ::2]), strict=True):
            far = (places.edges[:, None] - sides.unsqueeze(2)) * 8  # [R, T, g, 2]
            far = far.sign() * torch.log2(far.abs() + 1) / math.log2(8)
            parts.append(embed.layer2(F.relu(_linear_of_few(embed.layer1, far))))
        return torch.cat(parts, 2).permute(0, 3, 1, 2)

    def embed_pixels(self, features: list[Tensor], memory: Tensor, prompts: Tensor, mask: Tensor) -> Tensor:
        """Return the mask decoder's pixel features [M, C, 4g, 4g] of M rows, the m-th about image m mod B."""
        head = self.sam3.mask_decoder
        normed = _normed(head.prompt_cross_attn_norm, memory)
        pixels = (memory + _attend(head.prompt_cross_attn, normed, prompts, prompts, mask)).transpose(1, 2)
        pixels = pixels.reshape(*pixels.shape[:2], *features[-1].shape[2:])
        pyramid = head.pixel_decoder
        for level, convolution, norm in zip(features[-2::-1], pyramid.conv_layers, pyramid.norms, strict=False):
            larger = F.interpolate(pixels, size=level.shape[-2:], mode="nearest")
            pixels = (larger.view(-1, *level.shape) + level).flatten(0, 1)
            pixels = F.relu(_normed(norm, convolution(pixels)))
        return pixels

    def masks(self, pixels: Tensor, hidden: Tensor) -> Tensor:
        """Return mask logits [N, q, pixels] of queries [N, q, C] over ``pixels`` [N, C, pixels]. The projection of
        pixels is applied to the queries instead, which are far fewer."""
        head = self.sam3.mask_decoder
        embedded, project = head.mask_embedder(hidden), head.instance_projection
        weight = project.weight.flatten(1)
        return torch.bmm(F.linear(embedded, weight.T), pixels) + F.linear(embedded, project.bias[None])

    # --- together -----------------------------------------------------------------------------------------------------

    def forward(
        self, pixels: Tensor, phrase: Tensor, example: Tensor, boxes: Tensor, labels: Tensor, asked: Tensor
    ) -> Outputs:
        """Run R rows over B images, row r about image r mod B. ``pixels`` [B, 3, r, r]; ``phrase`` [R]; the last rows
        have ``boxes`` [rows, n, 4] cxcywh with ``labels`` [rows, n], on the images ``example`` [rows]. ``asked`` [M]
        are the rows whose masks are computed, the m-th about image m mod B too."""
        features, pixel_logits = self.encode_images(pixels)
        prompts, mask = self.encode_prompts(phrase, features[2], example, boxes, labels)
        memory = self.encode_rows(features[2], prompts, mask)
        kept, many = self.decode(memory, prompts, mask)
        embedded = self.embed_pixels(features, memory[asked], prompts[asked], mask[asked])
        semantic = self.sam3.mask_decoder.semantic_projection(embedded).squeeze(1)
        return Outputs(kept, many, embedded.flatten(2), semantic, pixel_logits)


def _heads(attention: Any, features: Tensor) -> Tensor:
    """Reshape [R, tokens, C] to [R, heads, tokens, C of a head]."""
    return features.view(*features.shape[:2], attention.num_attention_heads, -1).transpose(1, 2)


def _joined(attention: Any, found: Tensor) -> Tensor:
    projected: Tensor = attention.o_proj(found.transpose(1, 2).flatten(2))
    return projected


def _looked_up(attention: Any, query: Tensor, key: Tensor, value: Tensor, counts: Tensor | None = None) -> Tensor:
    """Compute attention of projected queries, keys and values."""
    q, k, v = (_heads(attention, part) for part in (query, key, value))
    return _joined(attention, F.scaled_dot_product_attention(q, k, v, attn_mask=counts))


def _attend(attention: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute ``Sam3Attention``; ``mask`` bool [R, keys]: the valid keys."""
    counts = None if mask is None else mask[:, None, None]
    return _looked_up(attention, attention.q_proj(query), attention.k_proj(key), attention.v_proj(value), counts)


def _attend_within(attention: Any, placed: Tensor, value: Tensor, counts: list[int]) -> Tensor:
    """Compute self-attention of groups of tokens that do not attend to each other."""
    parts = attention.q_proj(placed), attention.k_proj(placed), attention.v_proj(value)
    q, k, v = (torch.split(_heads(attention, part), counts, 2) for part in parts)
    found = [F.scaled_dot_product_attention(*group) for group in zip(q, k, v, strict=True)]
    return _joined(attention, torch.cat(found, 2))


def _projected(features: Tensor, layers: list[nn.Linear]) -> tuple[Tensor, ...]:
    """Apply several linear layers to the same features, in one product."""
    weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
    return F.linear(features, weight, bias).chunk(len(layers), -1)


def _attend_near(
    attention: Any, query: Tensor, key: Tensor, value: Tensor, nearness: Tensor, rows_and_columns: Tensor
) -> Tensor:
    """Compute attention of queries to pixels (projected keys and values), with a bias that is the sum of one for the
    row and one for the column.

    ``nearness`` [R, heads, T, 2g] has these biases, and ``rows_and_columns`` [g², 2g] is one-hot: their product is the
    bias. So both are appended to queries and keys, and the bias, which would be the largest tensor of a step, is never
    materialised.
    """
    q, k, v = (_heads(attention, part) for part in (attention.q_proj(query), key, value))
    own, more = q.shape[-1], nearness.shape[-1]
    q = torch.cat([q * own**-0.5, nearness.to(q.dtype)], -1)
    k = torch.cat([k, rows_and_columns.to(k.dtype).expand(*k.shape[:2], -1, -1)], -1)
    found = F.scaled_dot_product_attention(q, k, F.pad(v, (0, more)), scale=1.0)  # fast kernels need equal widths
    return _joined(attention, found[..., :own])


def _linear_of_few(layer: nn.Linear, features: Tensor) -> Tensor:
    """Apply a linear layer of few features, with its bias as the weight of one more feature that is always 1: over
    millions of rows, the bias's gradient is then part of the weight's instead of a slow sum. The features are padded to
    a multiple of eight, as matrix units require."""
    more = -features.shape[-1] % 8 or 8
    weight = torch.cat([layer.weight, F.pad(layer.bias[:, None], (0, more - 1))], 1)
    return F.linear(F.pad(_as_projected(features), (0, more), value=1.0), weight)


def _as_projected(features: Tensor) -> Tensor:
    """Convert features once to the precision in which projections read them."""
    kind = features.device.type
    return features.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else features


def _normed(norm: nn.LayerNorm | nn.GroupNorm, features: Tensor) -> Tensor:
    """Apply a norm in the precision of its input (its sums are float32 anyway), where autocast would return float32:
    for norms whose result only projections read, which would convert it back."""
    kind = features.dtype
    with torch.autocast(features.device.type, enabled=False):
        weight, bias = norm.weight.to(kind), norm.bias.to(kind)
        if isinstance(norm, nn.GroupNorm):
            return F.group_norm(features, norm.num_groups, weight, bias, norm.eps)
        return F.layer_norm(features, norm.normalized_shape, weight, bias, norm.eps)


class _ProjectedNorm(nn.LayerNorm):
    """A LayerNorm whose result only projections read: converted to their precision once, not by each of them."""

    def forward(self, features: Tensor) -> Tensor:
        return _as_projected(super().forward(features))


def _anchors(count: int) -> Tensor:
    """Return initial reference boxes, as logits of cxcywh [count, 4]: centres spread evenly (the R2 sequence)."""
    index = torch.arange(1, count + 1, dtype=torch.float64)[:, None]
    centres = (0.5 + index * torch.tensor([0.7548776662466927, 0.5698402909980532])) % 1
    boxes = torch.cat([0.05 + 0.9 * centres, torch.full((count, 2), _ANCHOR_SIDE, dtype=torch.float64)], 1)
    return torch.logit(boxes).float()
