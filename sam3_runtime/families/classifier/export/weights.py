"""Constructs timm models and gives them a checkpoint's weights, or seeded ones.

Each seeded weight is drawn from a generator that is seeded by the weight's own name, so that it is the same on every
machine. They have what a gate needs: activations neither vanish nor explode, and different images have clearly
different logits. Plain random weights give all images similar logits, since the outputs of a ReLU have the same
positive mean everywhere; so each filter sums to zero.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.data import create_transform, resolve_data_config
from timm.layers import set_layer_config
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sam3_runtime.core.errors import CheckpointError, ExportError
from sam3_runtime.families.classifier.export.checkpoint import (
    RANDOM_SEED,
    config_of,
    folder_of,
    random_digest,
    timm_name,
)
from sam3_runtime.families.classifier.parts import ClassifierDims
from sam3_runtime.records.records import CheckpointLock

_BIAS = 0.02
_LAYER_SCALE = 0.5  # of `gamma`, which scales a residual branch
_BRANCH = 0.3  # of batch norms that timm initialises to zero: the ends of residual branches. With 1, fifty layers
# amplify noise of a thousandth in an image to a fifth in its logits, too much for float16.
_ATTENTION = 1.5  # of queries, keys and values: uniform attention makes all images alike; 3 is too much for float16
_TOKEN = 0.1  # standard deviation of tokens and positions
_UNSUPPORTED = (AssertionError, IndexError, RuntimeError, TypeError, ValueError, ZeroDivisionError)
"""What models raise for a size that they do not support."""
_NOISE = (4, 8)  # images, and pixels per side of one value of their noise


@torch.no_grad()
def load_model(lock: CheckpointLock, resolution: int, *, exportable: bool = False) -> Any:
    """Return the model of ``lock`` for images of ``resolution`` pixels, in float32 and eval mode, without gradients.

    ``exportable`` is timm's form for ONNX. Raises :class:`CheckpointError` when weights are missing, of another shape
    or no longer those of the lock, :class:`ExportError` for a resolution that the model does not support.
    """
    config, dims = config_of(lock), ClassifierDims(**lock.dims)
    with set_layer_config(exportable=exportable):
        model: Any = _construct(config, dims.classes).eval().requires_grad_(False)
        if timm_name(lock.checkpoint) is None:
            _read_weights(model, lock)
        else:
            if random_digest(config) != lock.digest:
                hint = "delete checkpoint.lock to build this one anew, or install the timm that it was built with"
                raise CheckpointError(f"timm {timm.__version__} has another {lock.checkpoint} than the lock", hint)
            _draw_weights(model, dims.image_size)
        try:
            if resolution != dims.image_size and hasattr(model, "set_input_size"):
                model.set_input_size(img_size=(resolution, resolution))
            # Once, before anything is traced: some models compute their padding for the first image.
            logits = model(torch.zeros(1, 3, resolution, resolution))
        except _UNSUPPORTED as error:
            first = str(error).partition("\n")[0] or type(error).__name__
            raise ExportError(
                f"{config['architecture']} does not support images of {resolution} pixels: {first}",
                f"it was made for {dims.image_size}: use resolution: {dims.image_size}",
            ) from None
    if tuple(logits.shape) != (1, dims.classes):
        raise CheckpointError(f"{config['architecture']} gives {list(logits.shape)}, not [1, {dims.classes}]")
    return model


def transform_of(lock: CheckpointLock, resolution: int) -> Any:
    """Return timm's own preprocessing for that resolution: a PIL image → float32 [3, R, R]."""
    size = {"input_size": (3, resolution, resolution)}
    return create_transform(**resolve_data_config(size, pretrained_cfg=dict(config_of(lock)["pretrained_cfg"])))


def _construct(config: Mapping[str, Any], classes: int) -> nn.Module:
    name = config["architecture"]
    try:
        model: nn.Module = timm.create_model(
            name,
            pretrained=False,
            pretrained_cfg=dict(config["pretrained_cfg"]),
            num_classes=classes,
            **(config.get("model_args") or {}),
        )
    except (RuntimeError, TypeError, ValueError) as error:
        first = str(error).partition("\n")[0]
        hint = "see architecture and model_args in its config.json, or install a newer timm"
        raise CheckpointError(f"timm {timm.__version__} cannot construct {name}: {first}", hint) from None
    return model


# A checkpoint's weights -------------------------------------------------------------------------------------------


def _read_weights(model: nn.Module, lock: CheckpointLock) -> None:
    folder = folder_of(lock)
    folder.verify(lock)
    # The number of batches that a norm was trained on is not used here, and not every checkpoint has it.
    wanted = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    shapes = {name: value.shape for name, value in wanted.items()}
    model.load_state_dict(folder.read(shapes, "use weights that timm.models.save_for_hf wrote"), strict=False)


# Seeded weights ---------------------------------------------------------------------------------------------------


def _draw_weights(model: nn.Module, size: int) -> None:
    for name, value in model.named_parameters():
        value.copy_(_drawn(name, value))
    _calibrate(model, size)


def _drawn(name: str, initial: Tensor) -> Tensor:
    """Return the weight of this name, whose value in a new model is ``initial``."""
    last = name.rpartition(".")[2]
    if initial.ndim < 2 and last == "weight":
        return torch.full_like(initial, 1.0 if initial.any() else _BRANCH)
    if initial.ndim < 2 and "gamma" in last:
        return torch.full_like(initial, _LAYER_SCALE)
    seed = int.from_bytes(hashlib.sha256(f"{RANDOM_SEED}/{name}".encode()).digest()[:8], "little") >> 1
    drawn = torch.randn(initial.shape, generator=torch.Generator().manual_seed(seed))
    if initial.ndim < 2:
        return drawn.mul_(_BIAS)
    if last.endswith(("pos_embed", "token")):
        return drawn.mul_(_TOKEN)
    rows = drawn.flatten(1)
    if rows.shape[1] > 1:
        rows -= rows.mean(dim=1, keepdim=True)
    return drawn.mul_((_ATTENTION if name.endswith("qkv.weight") else 1.0) * rows.shape[1] ** -0.5)


def _calibrate(model: nn.Module, size: int) -> None:
    """Set the variance of each batch norm to that of its input, with one value for all channels and a mean of zero.

    It is rounded to a power of two, so that it does not depend on the rounding of the machine.
    """
    images, side = _NOISE
    noise = torch.randn((images, 3, -(-size // side), -(-size // side)), generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(noise, (size, size), mode="bilinear")

    def scale(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        assert norm.running_var is not None
        power = float(arguments[0].square().mean())
        if power > 0:
            norm.running_var.fill_(2.0 ** round(math.log2(power)))

    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_var is not None]
    hooks = [norm.register_forward_pre_hook(scale) for norm in norms]
    if hooks:
        model(smooth)
    for hook in hooks:
        hook.remove()
