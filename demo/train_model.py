"""``Sam3Model`` in the form that training needs: many prompts an image, every decoder layer's answers, any resolution.

The weights are the model's own and what is computed is what its ``forward`` computes (a test compares the two). Added
are a second group of queries and a head over the patches, which teach in training alone and are not saved. Knows
tensors and no scenes.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Sam3Model
from transformers.models.sam3.modeling_sam3 import Sam3ViTLayer, box_cxcywh_to_xyxy, inverse_sigmoid

from sam3_runtime.contract import BOX_PADDING_LABEL

PRIOR = 0.01
"""Score that a query begins with: most of the 200 find nothing, and a guess of one half would drown the few that do."""
_LEVELS = 3  # of the neck, which the detector reads
_ANCHOR_SIDE = 0.2  # of the image: what queries take things for before they have learnt
_EMBEDDING_STD = {"position_embedding": 0.1, "position_embeddings": 0.1}
_RESIDUAL, _RESIDUAL_GAIN = ("o_proj.weight", "out_proj.weight", "fc2.weight"), 0.5  # what layers add to the stream


@dataclass(frozen=True)
class Answers:
    """What one group of Q queries says at each of L layers, float32: ``logits`` [L, R, Q], ``boxes`` [L, R, Q, 4] xyxy
    from 0 to 1, ``presence`` logits [L, R], ``hidden`` [L, R, Q, C]."""

    logits: Tensor
    boxes: Tensor
    presence: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class Outputs:
    """``kept``: the model's own queries; ``many``: those of training, if any. ``instance`` [M, C, 4g · 4g]: what a
    query's mask embedding is multiplied with, and ``semantic`` logits [M, 4g, 4g], of the rows asked for.
    ``pixel_logits`` [B, classes, 2g, 2g]."""

    kept: Answers
    many: Answers | None
    instance: Tensor
    semantic: Tensor
    pixel_logits: Tensor


class Trainee(nn.Module):
    """``sam3`` with phrases ``input_ids``, ``attention_mask`` int64 [V, tokens] that prompts name by index.

    ``many`` queries are trained one-to-many beside the model's own; ``pixel_classes`` are read off the patches.
    """

    input_ids: Tensor
    attention_mask: Tensor

    def __init__(self, sam3: Any, input_ids: Tensor, attention_mask: Tensor, many: int, pixel_classes: int) -> None:
        super().__init__()
        self.sam3: Sam3Model = sam3
        used = int(attention_mask.sum(1).max())  # padding beyond the longest phrase is never seen by anything
        self.register_buffer("input_ids", input_ids[:, :used], persistent=False)
        self.register_buffer("attention_mask", attention_mask[:, :used], persistent=False)
        channels = sam3.config.detr_decoder_config.hidden_size
        self.many_queries = nn.Embedding(many, channels) if many else None
        self.many_points = nn.Embedding(many, 4) if many else None
        self.pixel_head = nn.Linear(self._vit.hidden_size, 4 * pixel_classes)
        self._positions: dict[int, tuple[Tensor, Tensor]] = {}
        self._initialise()

    @property
    def _vit(self) -> Any:
        return self.sam3.config.vision_config.backbone_config

    @property
    def patch(self) -> int:
        return int(self._vit.patch_size)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Weights to begin with. transformers draws all with a deviation of 0.02, meant for widths of 256 and more."""
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
                module.p = 0.0  # no scene is seen twice, so there is nothing to overfit
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
        """What the detector never reads: the neck's coarsest level, CLIP's own projection, a third step upwards."""
        neck, pyramid = self.sam3.vision_encoder.neck, self.sam3.mask_decoder.pixel_decoder
        for module in (
            neck.fpn_layers[_LEVELS:],
            self.sam3.text_encoder.text_projection,
            pyramid.conv_layers[_LEVELS - 1 :],
            pyramid.norms[_LEVELS - 1 :],
        ):
            module.requires_grad_(False)

    # --- the parts ----------------------------------------------------------------------------------------------------

    def _set_resolution(self, grid: int, device: torch.device) -> Tensor:
        """Give the global layers their positions for ``grid`` patches a side; the sine position [1, C, g, g]."""
        if grid not in self._positions:
            vit = copy.deepcopy(self._vit)
            vit.image_size = grid * self.patch
            places = Sam3ViTLayer.precompute_positions(vit, 0).to(device)
            neck = self.sam3.vision_encoder.neck
            shape = torch.Size((1, neck.config.fpn_hidden_size, grid, grid))
            self._positions[grid] = places, neck.position_encoding(shape, device, torch.float32)
        places, sine = self._positions[grid]
        for layer in self.sam3.vision_encoder.backbone.layers:
            if layer.window_size == 0:
                layer.position_ids = places
        return sine

    def encode_images(self, pixels: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Features at 4, 2 and 1 times the grid [B, C, .., ..], the sine position [1, C, g, g], and pixel logits."""
        vision = self.sam3.vision_encoder
        grid = pixels.shape[-1] // self.patch
        sine = self._set_resolution(grid, pixels.device)
        patches = vision.backbone(pixels).last_hidden_state
        seen = F.pixel_shuffle(self.pixel_head(patches).transpose(1, 2).unflatten(2, (grid, grid)), 2)
        spatial = patches.view(len(pixels), grid, grid, -1).permute(0, 3, 1, 2)
        return [layer(spatial) for layer in vision.neck.fpn_layers[:_LEVELS]], sine, seen

    def encode_prompts(
        self, phrase: Tensor, coarse: Tensor, sine: Tensor, example: Tensor, boxes: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Prompt features [R, tokens, C] and which count, bool [R, tokens]: words, then, in the last rows, boxes."""
        texts = self.sam3.get_text_features(self.input_ids, self.attention_mask).pooler_output
        tokens, mask = texts[phrase].float(), self.attention_mask[phrase].bool()
        with torch.autocast(boxes.device.type, enabled=False):  # RoIAlign has no bfloat16, and positions need more
            shown = self.sam3.geometry_encoder(
                box_embeddings=boxes,
                box_mask=labels != BOX_PADDING_LABEL,
                box_labels=labels.clamp(min=0),
                img_feats=(coarse[example].float(),),
                img_pos_embeds=(sine.expand(len(example), -1, -1, -1),),
            )
        words = (0, 0, 0, 0, len(phrase) - len(example), 0)  # rows without boxes come first
        tokens = torch.cat([tokens, F.pad(shown.last_hidden_state.float(), words)], 1)
        return tokens, torch.cat([mask, F.pad(shown.attention_mask, words[2:])], 1)

    def decode(self, memory: Tensor, prompts: Tensor, mask: Tensor, sine: Tensor, many: bool = False) -> Answers:
        """Run the decoder over encoded images [R, g², C], with the model's own queries or those of training."""
        decoder, grid = self.sam3.detr_decoder, sine.shape[-1]
        inputs = {
            "vision_features": memory,
            "text_features": prompts,
            "vision_pos_encoding": sine.flatten(2).transpose(1, 2).expand(len(memory), -1, -1),
            "text_mask": mask[:, None, None],
            "spatial_shapes": torch.tensor([[grid, grid]]),  # on the host, where it is read
        }
        own: dict[str, Tensor] = {}
        if many and self.many_queries is not None and self.many_points is not None:
            own = {"query_embed.weight": self.many_queries.weight, "reference_points.weight": self.many_points.weight}
        found = torch.func.functional_call(decoder, own, (), inputs)
        with torch.autocast(memory.device.type, enabled=False):
            hidden = found.intermediate_hidden_states.float()
            moved = inverse_sigmoid(found.reference_boxes.float()) + decoder.box_head(hidden)
            logits = self.sam3.dot_product_scoring(hidden, prompts, mask).squeeze(-1)
        return Answers(logits, box_cxcywh_to_xyxy(moved.sigmoid()), found.presence_logits.float().squeeze(-1), hidden)

    def embed_masks(
        self, features: list[Tensor], memory: Tensor, prompts: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``instance`` [M, C, 4g · 4g] and ``semantic`` [M, 4g, 4g] of M rows."""
        head = self.sam3.mask_decoder
        attended, _ = head.prompt_cross_attn(
            query=head.prompt_cross_attn_norm(memory), key=prompts, value=prompts, attention_mask=mask[:, None, None]
        )
        pixels = head._embed_pixels(features, memory + attended)
        return head.instance_projection(pixels).flatten(2), head.semantic_projection(pixels).squeeze(1)

    def masks(self, instance: Tensor, hidden: Tensor) -> Tensor:
        """Mask logits [N, q, pixels] of queries [N, q, C] over ``instance`` [N, C, pixels]."""
        return torch.bmm(self.sam3.mask_decoder.mask_embedder(hidden), instance)

    # --- together -----------------------------------------------------------------------------------------------------

    def forward(
        self, pixels: Tensor, phrase: Tensor, image: Tensor, example: Tensor, boxes: Tensor, labels: Tensor,
        asked: Tensor,
    ) -> Outputs:  # fmt: skip
        """R rows over B images. ``pixels`` [B, 3, r, r]; ``phrase``, ``image`` [R]; the last rows have ``boxes``
        [rows, n, 4] cxcywh with ``labels`` [rows, n], on the images ``example`` [rows]; masks are of rows ``asked``."""
        features, sine, pixel_logits = self.encode_images(pixels)
        prompts, mask = self.encode_prompts(phrase, features[2], sine, example, boxes, labels)
        memory = self.sam3.detr_encoder(
            vision_features=[features[2][image]],
            text_features=prompts,
            vision_pos_embeds=[sine.expand(len(image), -1, -1, -1)],
            text_mask=mask[:, None, None],
        ).last_hidden_state
        kept = self.decode(memory, prompts, mask, sine)
        many = self.decode(memory, prompts, mask, sine, many=True) if self.training and self.many_queries else None
        where = image[asked]
        instance, semantic = self.embed_masks(
            [level[where] for level in features], memory[asked], prompts[asked], mask[asked]
        )
        return Outputs(kept, many, instance, semantic, pixel_logits)


def _anchors(count: int) -> Tensor:
    """Reference boxes to begin with, as logits of cxcywh [count, 4]: centres spread evenly (the R2 sequence)."""
    index = torch.arange(1, count + 1, dtype=torch.float64)[:, None]
    centres = (0.5 + index * torch.tensor([0.7548776662466927, 0.5698402909980532])) % 1
    boxes = torch.cat([0.05 + 0.9 * centres, torch.full((count, 2), _ANCHOR_SIDE, dtype=torch.float64)], 1)
    return torch.logit(boxes).float()
