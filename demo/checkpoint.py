"""The demo's SAM3: defines its architecture, and writes checkpoints of it.

    python -m demo.checkpoint FOLDER --shards 3      demo/checkpoint in the layout of facebook/sam3, in shards

It has the proportions of facebook/sam3's vision encoder: resolution 336 corresponds to 1008, 224 to 672, 280 to 840
(padded windows). ``demo/train.py`` trains it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any

TRAINED = Path(__file__).with_name("checkpoint")


def config(layout: str = "sam3") -> Any:
    """A ``Sam3Config`` (or the ``Sam3VideoConfig`` around it) of about three million parameters."""
    from transformers import CLIPTextConfig, Sam3Config, Sam3VideoConfig, Sam3ViTConfig
    from transformers.models.sam3 import configuration_sam3 as c

    channels, heads = 64, 4
    shared = {"hidden_size": channels, "num_attention_heads": heads}
    detr = shared | {"intermediate_size": 192, "dropout": 0.1}
    vit = Sam3ViTConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=4,
        image_size=336,
        patch_size=14,
        window_size=8,
        global_attn_indexes=[1, 3, 5, 7],
        pretrain_image_size=112,
    )
    text = CLIPTextConfig(
        vocab_size=512,
        hidden_size=96,
        intermediate_size=384,
        projection_dim=channels,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=32,
        hidden_act="gelu",
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    detector = Sam3Config(
        vision_config=c.Sam3VisionConfig(
            backbone_config=vit, fpn_hidden_size=channels, backbone_feature_sizes=[[96, 96], [48, 48], [24, 24]]
        ),
        text_config=text,
        geometry_encoder_config=c.Sam3GeometryEncoderConfig(**detr, num_layers=3),
        detr_encoder_config=c.Sam3DETREncoderConfig(**detr, num_layers=6),
        detr_decoder_config=c.Sam3DETRDecoderConfig(**detr, num_layers=6, num_queries=200),
        mask_decoder_config=c.Sam3MaskDecoderConfig(**shared),
    )
    if layout == "sam3":
        return detector
    return Sam3VideoConfig(detector_config=detector.to_dict(), tracker_config=_small_tracker())


def _small_tracker() -> dict[str, Any]:
    """The smallest tracker that transformers constructs: the video model needs one, and nothing here uses it."""
    vit: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "window_size": 8,
    }
    vit |= {"image_size": 112, "patch_size": 14, "pretrain_image_size": 112, "global_attn_indexes": [0]}
    return {
        "vision_config": {
            "model_type": "sam3_vision_model",
            "backbone_config": vit | {"model_type": "sam3_vit_model"},
            "fpn_hidden_size": 256,
        },
        "memory_attention_num_layers": 1,
        "memory_fuser_num_layers": 1,
        "image_size": 112,
    }


def in_video_layout(trained: Path) -> Any:
    """The model in the folder ``trained`` as the detector of a ``Sam3VideoModel``, beside an untrained tracker."""
    from transformers import Sam3Model, Sam3VideoModel

    made = Sam3VideoModel(config("sam3_video")).eval()
    made.detector_model.load_state_dict(Sam3Model.from_pretrained(trained).state_dict())
    return made


def write(made: Any, folder: Path, shards: int = 1) -> None:
    """Write a model as a checkpoint into ``folder``, complete or not at all. Its ``config.json`` has float32, so that
    readers convert weights that are stored in float16."""
    from transformers import Sam3ImageProcessor, Sam3Processor

    from sam3_runtime.families.sam3.export.tokenizer import small_tokenizer

    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    size = sum(p.numel() * p.element_size() for p in made.parameters())
    made.save_pretrained(temporary, max_shard_size=size if shards == 1 else size // shards)
    config_file = temporary / "config.json"
    config_file.write_text(config_file.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
    image_processor = Sam3ImageProcessor(
        size={"height": 336, "width": 336},
        mask_size={"height": 96, "width": 96},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    words = small_tokenizer()
    image_processor.save_pretrained(temporary)
    Sam3Processor(image_processor, words).save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=1)
    arguments = parser.parse_args()
    write(in_video_layout(TRAINED), arguments.folder, arguments.shards)
    print(f"wrote {arguments.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
