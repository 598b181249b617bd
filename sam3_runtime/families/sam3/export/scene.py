"""What transformers' ``Sam3Model`` says in float32 about a few seeded inputs: what exported graphs are compared with.

Knows the contract's tensors and nothing of graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

from sam3_runtime.families.sam3.export.weights import load_model
from sam3_runtime.families.sam3.parts import BOX_PADDING_LABEL
from sam3_runtime.records.records import CheckpointLock

ROWS = 3


@dataclass(frozen=True)
class Scene:
    """A model at one resolution and what it says about ``ROWS`` seeded pictures and texts.

    ``features`` are ``fpn_feat_0/1/2`` of all pictures; ``geometry`` are boxes and their labels, [ROWS, n, …].
    """

    model: Any
    resolution: int
    images: Tensor
    features: tuple[Tensor, ...]
    position: Tensor
    text: Mapping[str, Tensor]
    text_features: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, lock: CheckpointLock, resolution: int, pictures: Tensor | None = None) -> Scene:
        """``pictures`` are ``ROWS`` preprocessed images to look at instead of noise."""
        model = load_model(lock, resolution)
        seeded = torch.Generator().manual_seed(resolution)
        noise = torch.randn(ROWS, 3, resolution, resolution, generator=seeded)
        images = noise if pictures is None else pictures
        seen = model.vision_encoder(images)
        tokens = lock.model_dims.text_tokens
        ids = torch.randint(2, 400, (ROWS, tokens), generator=seeded)
        mask = (torch.arange(tokens) < torch.tensor([[4], [tokens], [9]])).long()
        text = {"input_ids": ids, "attention_mask": mask}
        features = model.get_text_features(**text).pooler_output
        levels, places = seen.fpn_hidden_states[:3], seen.fpn_position_encoding[2][:1]
        return cls(model, resolution, images, levels, places, text, features)

    def boxes(self, count: int) -> tuple[Tensor, Tensor]:
        """Boxes and labels [ROWS, count, …]; later rows have padding, as far as there is room."""
        seeded = torch.Generator().manual_seed(count)
        boxes = torch.rand(ROWS, count, 4, generator=seeded)
        boxes[:, 0] = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.02, 0.98, 0.01, 0.01], [0.9, 0.1, 0.5, 0.4]])
        labels = torch.randint(0, 2, (ROWS, count), generator=seeded)
        for row in range(1, ROWS):
            labels[row, max(1, count - 2 * row) :] = BOX_PADDING_LABEL
        return boxes, labels

    @torch.no_grad()
    def geometry(self, boxes: Tensor, labels: Tensor, images: slice) -> tuple[Tensor, Tensor]:
        """transformers' geometry encoder: features and mask."""
        rows = len(boxes)
        encoded = self.model.geometry_encoder(
            box_embeddings=boxes,
            box_mask=labels != BOX_PADDING_LABEL,
            box_labels=labels.clamp(min=0),
            img_feats=[level[images].expand(rows, -1, -1, -1) for level in self.features],
            img_pos_embeds=[self.position.expand(rows, -1, -1, -1)],
        )
        return encoded.last_hidden_state, encoded.attention_mask

    def prompt(self, rows: int, boxes: int, images: slice) -> tuple[Tensor, Tensor]:
        """Text tokens and, where ``boxes`` is not 0, geometry tokens of the first ``rows`` prompts."""
        features, mask = self.text_features[:rows], self.text["attention_mask"][:rows].bool()
        if boxes:
            corners, labels = self.boxes(boxes)
            more, valid = self.geometry(corners[:rows], labels[:rows], images)
            features, mask = torch.cat([features, more], dim=1), torch.cat([mask, valid], dim=1)
        return features, mask

    @torch.no_grad()
    def detect(self, prompt: Tensor, mask: Tensor, images: slice) -> Any:
        """transformers' ``Sam3Model`` from features and prompt tokens on."""
        rows = len(prompt)
        levels = [level[images].expand(rows, -1, -1, -1) for level in self.features]
        # The model drops the fourth level; it reads the position of the third alone.
        seen = Sam3VisionEncoderOutput(
            fpn_hidden_states=(*levels, levels[-1]),
            fpn_position_encoding=(None, None, self.position.expand(rows, -1, -1, -1), None),
        )
        text = BaseModelOutputWithPooling(pooler_output=prompt)
        return self.model(vision_embeds=seen, text_embeds=text, attention_mask=mask)


def decoder_feeds(scene: Scene, prompt: Tensor, mask: Tensor, images: slice) -> dict[str, Tensor]:
    levels = {f"fpn_feat_{level}": features[images] for level, features in enumerate(scene.features)}
    return levels | {"fpn_pos_2": scene.position, "prompt_features": prompt, "prompt_mask": mask}
