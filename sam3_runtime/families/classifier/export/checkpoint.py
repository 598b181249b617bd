"""Finds checkpoints of timm's models, describes them in a lock, and names their classes.

A checkpoint is a local folder (``config.json`` in timm's form and safetensors), a hub name
(``timm/resnet50.a1_in1k``), or the name of a timm model (``resnet50``): that architecture with seeded weights. timm,
which imports PyTorch, is imported only where its own tables are needed; ``weights.py`` loads.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import CheckpointError
from sam3_runtime.core.files import digest_of, write_atomically
from sam3_runtime.families.classifier.labels import Labels
from sam3_runtime.families.classifier.parts import LABELS, ClassifierDims
from sam3_runtime.families.classifier.spec import CLASSIFIER
from sam3_runtime.graphs.checkpoints import CheckpointFolder, download, index_weights, read_config
from sam3_runtime.records.records import CheckpointLock, Preprocessing

RANDOM_SEED = 3
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SYNSET = re.compile(r"n\d{8}")
_WAYS = (
    "set model.checkpoint to a folder with timm's config.json and model.safetensors, to a hub name such as "
    "timm/resnet50.a1_in1k, or to a timm model such as resnet50 (random weights, timing only)"
)
_FITS = {"center": "crop", "squash": "stretch"}
"""timm's ways to make an image square, and their names in :class:`Preprocessing`."""


def lock(checkpoint: str, revision: str | None = None) -> CheckpointLock:
    """Find ``checkpoint`` (downloading it where it is a hub name) and describe its weights.

    ``revision`` is a branch, tag or commit, of hub checkpoints only. Raises :class:`CheckpointError` when the
    checkpoint is not found, is not a classifier of timm in safetensors, or has an unsupported preprocessing.
    """
    name = timm_name(checkpoint)
    config: Mapping[str, Any]
    if name is not None:
        config = config_of_name(name)
        commit, digest = None, random_digest(config)
    else:
        folder, commit = _find(checkpoint, revision)
        config, digest = folder.config, folder.digest()
    dims = ClassifierDims.from_config(config)
    channels = (config["pretrained_cfg"].get("input_size") or (3,))[0]
    if dims.classes < 1 or channels != 3:
        what = "has no classes" if dims.classes < 1 else f"takes images of {channels} channels, not RGB"
        raise CheckpointError(f"{checkpoint} {what}", "use a classifier of RGB images")
    return CheckpointLock(
        checkpoint=checkpoint,
        revision=revision if commit else None,
        commit=commit,
        digest=digest,
        dims=dims.to_dict(),
        family=CLASSIFIER.name,
        preprocessing=preprocessing_of(config),
        random=name is not None,
    )


def write_asset(lock: CheckpointLock, name: str, output: Path) -> None:
    """Write ``labels.json``: the name of each class, and its synset where that is known."""
    if name != LABELS:
        raise CheckpointError(f"a classifier has no {name}", f"it has {LABELS}")
    write_atomically(output, labels_of(config_of(lock), ClassifierDims(**lock.dims).classes).to_json())


# Content ----------------------------------------------------------------------------------------------------


def config_of(lock: CheckpointLock) -> Mapping[str, Any]:
    """Return the locked checkpoint's configuration, in timm's form. Raises :class:`CheckpointError`."""
    name = timm_name(lock.checkpoint)
    return folder_of(lock).config if name is None else config_of_name(name)


def preprocessing_of(config: Mapping[str, Any]) -> Preprocessing:
    """Return the checkpoint's preprocessing; raise :class:`CheckpointError` where this project does not support it."""
    from timm.data import resolve_data_config

    found = resolve_data_config({}, pretrained_cfg=dict(config["pretrained_cfg"]))
    mode, resample = found["crop_mode"], f"{found['interpolation']}-antialias"
    known = Preprocessing.model_fields["resample"].annotation.__args__  # type: ignore[union-attr]
    if mode not in _FITS or resample not in known:
        raise CheckpointError(
            f"{config['architecture']}: unsupported crop_mode {mode!r} with interpolation {found['interpolation']!r}",
            f"crop_mode may be {' or '.join(_FITS)}, interpolation {', '.join(one.partition('-')[0] for one in known)}",
        )
    values = {"fit": _FITS[mode], "crop": found["crop_pct"], "resample": resample}
    return Preprocessing.model_validate(values | {key: tuple(found[key]) for key in ("mean", "std")})


def labels_of(config: Mapping[str, Any], classes: int) -> Labels:
    """Return the labels of ``config``: its ``label_names`` and ``label_descriptions``.

    Without those, they are ImageNet's where timm has a subset of ``classes`` classes, else ``class 0`` and so on.
    Raises :class:`CheckpointError` where there are not ``classes`` of them.
    """
    from timm.data import ImageNetInfo, infer_imagenet_subset

    where = config if config.get("label_names") else config.get("pretrained_cfg") or {}
    names = where.get("label_names")
    if names is None:
        subset = infer_imagenet_subset({"num_classes": classes})
        if subset is None:
            return Labels([f"class {index}" for index in range(classes)])
        info = ImageNetInfo(subset)
        return Labels(info.label_descriptions(), info.label_names())
    described = where.get("label_descriptions") or names
    shown = [described.get(name, name) for name in names] if isinstance(described, Mapping) else list(described)
    if {len(names), len(shown)} != {classes}:
        raise CheckpointError(
            f"config.json has {len(names)} label_names, {len(shown)} descriptions and {classes} classes",
            "name every class once, or leave label_names out",
        )
    synsets = list(names) if all(_SYNSET.fullmatch(str(name)) for name in names) else None
    return Labels([str(name) for name in shown], synsets)


# Files ------------------------------------------------------------------------------------------------------


def timm_name(checkpoint: str) -> str | None:
    """Return the name of a timm model (with random weights); None where ``checkpoint`` is a folder or a hub name.

    Raises :class:`CheckpointError` for anything else.
    """
    path = Path(checkpoint).expanduser()
    if path.is_dir() or (_HUB_NAME.fullmatch(checkpoint) and not path.exists()):
        return None
    if path.exists():
        raise CheckpointError(f"checkpoint {checkpoint!r} is a file, not a folder", _WAYS)
    import timm

    known = timm.list_models()
    architecture, _, tag = checkpoint.partition(".")
    if architecture not in known:
        near = difflib.get_close_matches(architecture, known, 3)
        message = f"checkpoint {checkpoint!r} is neither a local folder nor a model of timm {timm.__version__}"
        raise CheckpointError(message, f"did you mean {' or '.join(near)}?" if near else _WAYS)
    if tag and checkpoint not in (tagged := timm.list_pretrained(f"{architecture}.*")):
        near = difflib.get_close_matches(checkpoint, tagged, 5, 0)
        raise CheckpointError(f"timm {timm.__version__} has no {checkpoint}", f"it has {', '.join(near)}")
    return checkpoint


def config_of_name(name: str) -> dict[str, Any]:
    """Return what the hub's ``config.json`` of that timm model has about the model's computation."""
    import timm

    found = timm.get_pretrained_cfg(name)
    own = {} if found is None else {key: value for key, value in found.to_dict().items() if key in _COMPUTES}
    return {"architecture": name.partition(".")[0], "num_classes": own.get("num_classes", 1000), "pretrained_cfg": own}


_COMPUTES = {
    "input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "num_classes",
    "label_names", "label_descriptions",
}  # fmt: skip
"""The fields of timm's configuration in the digest of seeded weights; those about files are not among them."""


def random_digest(config: Mapping[str, Any]) -> str:
    """Return the digest of the seeded weights of ``config``."""
    return digest_of({"seed": RANDOM_SEED, "config": config})


def folder_of(lock: CheckpointLock) -> CheckpointFolder:
    """Return the locked checkpoint's files, after a download from the hub. Raises :class:`CheckpointError`."""
    return _find(lock.checkpoint, lock.commit)[0]


def _find(checkpoint: str, revision: str | None) -> tuple[CheckpointFolder, str | None]:
    """Return the checkpoint's folder and, where it comes from the hub, its commit."""
    path, commit = Path(checkpoint).expanduser(), None
    if not path.is_dir():
        path, commit = download(checkpoint, revision, _WAYS)
    config = read_config(path, _WAYS)
    if CLASSIFIER.claims is None or not CLASSIFIER.claims(config):
        hint = "it has `architecture`, `num_classes` and `pretrained_cfg`, as timm.models.save_for_hf writes it"
        raise CheckpointError(f"{path / 'config.json'} is not in timm's form", hint)
    return CheckpointFolder(path, config, index_weights(path, _WAYS)), commit
