"""Runs transformers' ``Sam3Model`` in float32 on a few seeded inputs, for comparison with exported graphs."""

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
    """A model at one resolution, ``ROWS`` seeded images and texts, and the model's features of them.

    ``images`` are [ROWS, 3, R, R], ``features`` their ``fpn_feat_0/1/2``, ``position`` is ``fpn_pos_2`` [1, C, g, g];
    ``text`` are tokens and their mask [ROWS, T], ``text_features`` [ROWS, T, C].
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
    def of(cls, lock: CheckpointLock, resolution: int, images: Tensor | None = None) -> Scene:
        """Run the encoders of the checkpoint on ``ROWS`` preprocessed ``images``, by default noise."""
        model = load_model(lock, resolution)
        seeded = torch.Generator().manual_seed(resolution)
        noise = torch.randn(ROWS, 3, resolution, resolution, generator=seeded)
        images = noise if images is None else images
        vision = model.vision_encoder(images)
        tokens = lock.model_dims.text_tokens
        ids = torch.randint(2, 400, (ROWS, tokens), generator=seeded)
        mask = (torch.arange(tokens) < torch.tensor([[4], [tokens], [9]])).long()
        text = {"input_ids": ids, "attention_mask": mask}
        features = model.get_text_features(**text).pooler_output
        levels, position = vision.fpn_hidden_states[:3], vision.fpn_position_encoding[2][:1]
        return cls(model, resolution, images, levels, position, text, features)

    def boxes(self, count: int) -> tuple[Tensor, Tensor]:
        """Return seeded boxes [ROWS, count, 4] and labels [ROWS, count]; later rows end with padding if long enough."""
        seeded = torch.Generator().manual_seed(count)
        boxes = torch.rand(ROWS, count, 4, generator=seeded)
        boxes[:, 0] = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.02, 0.98, 0.01, 0.01], [0.9, 0.1, 0.5, 0.4]])
        labels = torch.randint(0, 2, (ROWS, count), generator=seeded)
        for row in range(1, ROWS):
            labels[row, max(1, count - 2 * row) :] = BOX_PADDING_LABEL
        return boxes, labels

    @torch.no_grad()
    def geometry(self, boxes: Tensor, labels: Tensor, images: slice) -> tuple[Tensor, Tensor]:
        """Run transformers' geometry encoder: features [P, n + 1, C] and mask [P, n + 1]."""
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
        """Return text tokens of the first ``rows`` prompts, and geometry tokens of ``boxes`` boxes, with their mask."""
        features, mask = self.text_features[:rows], self.text["attention_mask"][:rows].bool()
        if boxes:
            corners, labels = self.boxes(boxes)
            more, valid = self.geometry(corners[:rows], labels[:rows], images)
            features, mask = torch.cat([features, more], dim=1), torch.cat([mask, valid], dim=1)
        return features, mask

    @torch.no_grad()
    def detect(self, prompt: Tensor, mask: Tensor, images: slice) -> Any:
        """Run transformers' ``Sam3Model`` on features of some images and prompt tokens."""
        rows = len(prompt)
        levels = [level[images].expand(rows, -1, -1, -1) for level in self.features]
        # The model ignores the fourth level, and reads the position of the third only.
        vision = Sam3VisionEncoderOutput(
            fpn_hidden_states=(*levels, levels[-1]),
            fpn_position_encoding=(None, None, self.position.expand(rows, -1, -1, -1), None),
        )
        text = BaseModelOutputWithPooling(pooler_output=prompt)
        return self.model(vision_embeds=vision, text_embeds=text, attention_mask=mask)


def decoder_feeds(scene: Scene, prompt: Tensor, mask: Tensor, images: slice) -> dict[str, Tensor]:
    """Return the inputs of the decoder's graph for prompts on some ``images`` of ``scene``."""
    levels = {f"fpn_feat_{level}": features[images] for level, features in enumerate(scene.features)}
    return levels | {"fpn_pos_2": scene.position, "prompt_features": prompt, "prompt_mask": mask}
