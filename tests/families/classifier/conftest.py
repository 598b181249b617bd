"""A small classifier of timm's as a checkpoint in a folder, its engine (PyTorch's own module), and photographs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from sam3_runtime.core.files import digest_of
from sam3_runtime.engines.running.base import Engine
from sam3_runtime.engines.running.host import HostDevice
from sam3_runtime.families.classifier.export import checkpoint, graph, weights
from sam3_runtime.families.classifier.export.reference import compute_reference
from sam3_runtime.families.classifier.runtime import PART, Classifier, open_model
from sam3_runtime.media.sources import load_image
from sam3_runtime.records.records import CheckpointLock, EngineRecord, Sizes, TensorRecord, Toolchain, VariantConfig

NAMES = ["cat", "cup", "crane, bird", "crane, machine", "rocket"]
RESOLUTION = 96
ARCHITECTURE = "test_resnet"
TRAINED = {
    "input_size": [3, 160, 160], "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center",
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "num_classes": 5,
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "architecture": ARCHITECTURE, "num_classes": 5, "label_names": NAMES, "pretrained_cfg": TRAINED
}  # fmt: skip


def write_checkpoint(folder: Path, config: Mapping[str, Any] = CONFIG, seed: int = 0) -> Path:
    """timm's form of a checkpoint: seeded weights of ``config``'s architecture, in one file."""
    folder.mkdir(parents=True, exist_ok=True)
    model = timm.create_model(config["architecture"], pretrained=False, num_classes=config["num_classes"]).eval()
    with torch.no_grad():
        weights._draw_weights(model, 160)
        model.get_classifier().bias.add_(seed)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small")


@pytest.fixture(scope="session")
def lock(folder: Path) -> CheckpointLock:
    return checkpoint.lock(str(folder))


@pytest.fixture(scope="session")
def photos() -> dict[str, np.ndarray]:
    pytest.importorskip("skimage")
    names = ("astronaut", "coffee", "chelsea", "motorcycle_left")
    return {name: load_image(f"package:skimage/data/{name}.png") for name in names}


@pytest.fixture(scope="session")
def reference(lock: CheckpointLock, photos: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "r96.safetensors"
    compute_reference(lock, path, resolution=RESOLUTION, images=photos)
    return path


class TorchEngine(Engine):
    """The exported module itself. ``wrong`` changes its logits; ``calls`` are the batches that it was given."""

    def __init__(self, record: EngineRecord, module: Any, wrong: Callable[[np.ndarray], np.ndarray] | None) -> None:
        super().__init__(record)
        self.module, self.wrong, self.calls = module, wrong, []

    @torch.no_grad()
    def _run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        logits = self.module(torch.from_numpy(feeds["images"])).numpy()
        self.calls.append(len(logits))
        return {"logits": self.wrong(logits) if self.wrong else logits}


def config_of(lock: CheckpointLock, batch: int = 3) -> VariantConfig:
    return VariantConfig(
        family="classifier", variant=f"b{batch}_r{RESOLUTION}", axes={"batch": batch, "resolution": RESOLUTION},
        quantize=None, backend="fake", dims=lock.dims, checkpoint="small", revision=None, commit=None,
        checkpoint_digest=lock.digest, preprocessing=lock.preprocessing, assets={"labels.json": ""}, notice="",
    )  # fmt: skip


def record_of(lock: CheckpointLock, batch: int = 3) -> EngineRecord:
    images = TensorRecord(name="images", shape=("B", 3, RESOLUTION, RESOLUTION), dtype="float32")
    logits = TensorRecord(name="logits", shape=("B", lock.dims["classes"]), dtype="float32")
    return EngineRecord(
        family="classifier", part=PART, graph=PART, sha256="a" * 64, onnx_sha256="", checkpoint_digest=lock.digest,
        backend="fake", precision="fp32", dims=lock.dims, axes={"batch": batch, "resolution": RESOLUTION},
        inputs=(images,), outputs=(logits,), profile={"B": (1, batch, batch)}, sizes=Sizes(file=0), build_seconds=0,
        command="",
        toolchain=Toolchain(backend="fake", version="1"), settings={}, cache_key=digest_of(batch),
    )  # fmt: skip


Open = Callable[..., Classifier]


@pytest.fixture
def opened(lock: CheckpointLock, tmp_path: Path) -> Open:
    module = graph.module_of(PART, lock, {"resolution": RESOLUTION}, {})

    def open_it(batch: int = 3, wrong: Callable[[np.ndarray], np.ndarray] | None = None) -> Classifier:
        checkpoint.write_asset(lock, "labels.json", tmp_path / "labels.json")
        engine = TorchEngine(record_of(lock, batch), module, wrong)
        return open_model(
            config_of(lock, batch), {PART: engine}, HostDevice(), directory=tmp_path, status="passed", reason=""
        )

    return open_it


@pytest.fixture
def labelled(opened: Open, photos: dict[str, np.ndarray], tmp_path: Path) -> Path:
    """The photographs in folders of the classes that the model takes them for, one of them in a wrong one."""
    folder = tmp_path / "labelled"
    guesses = opened().classify(list(photos.values()), top=5)
    for place, (name, guess) in enumerate(zip(photos, guesses, strict=True)):
        truth = guess.classes[4 if place == 0 else 0]
        (folder / str(truth)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(photos[name]).save(folder / f"{truth}/{name}.png")
    (folder / "cat").mkdir()
    (folder / "cat/broken.png").write_bytes(b"no picture")
    return folder
