"""Trains the demo's small SAM3 from scratch on generated scenes.

    python -m demo.train RUN --total-minutes 60 --minutes 25      one stretch; the same command continues with the next
    torchrun --nproc-per-node 4 -m demo.train RUN ...             the same on several GPUs, each with its own images
    python -m demo.train RUN --minutes 0 --write demo/checkpoint  the checkpoint, from the averaged weights

RUN contains ``state/``, from which the next stretch continues, and ``log.jsonl``: losses, speed, and regular checks on
held-out scenes. The learning rate falls to zero over ``--total-minutes`` of training, however they are divided into
stretches; then the run is complete.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from demo import checkpoint
from demo.scenes import HELD_OUT
from demo.train_check import check
from demo.train_data import PIXEL_CLASSES, VOCABULARY, Batch, ask, build
from demo.train_feed import Feeder, loader
from demo.train_graphs import Recorded, clip, flat_gradients
from demo.train_losses import WEIGHTS, losses, total
from demo.train_model import Trainee
from demo.train_state import Clock, Progress, average, learning_rate, read_state, write_state
from sam3_runtime.core.errors import Sam3Error

MANY = 100  # queries of the one-to-many group
_LOG_EVERY, _AGREE_EVERY = 50, 10  # steps
_CLIP = 5.0  # norm of the gradient
_DECAY = 0.02  # weight decay of matrices


@dataclass(frozen=True)
class Settings:
    """``images`` per step and process at the largest sizes; ``minutes`` of this stretch, ``total_minutes`` of all."""

    run: Path
    resume: Path
    minutes: float = 25.0
    total_minutes: float = 60.0
    images: int = 64
    workers: int = 12
    rate: float = 8e-4
    check_minutes: float = 3.0
    check_images: int = 64
    eager: bool = False
    write: Path | None = None


@dataclass(frozen=True)
class Worker:
    """One of the ``count`` processes that train, and its ``device``."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


def new_trainee() -> Trainee:
    """Return the architecture of ``demo/checkpoint.py`` with initial weights."""
    from transformers import Sam3Model

    from sam3_runtime.families.sam3.export.tokenizer import small_tokenizer

    config = checkpoint.config()
    length = config.text_config.max_position_embeddings
    tokens = small_tokenizer()(list(VOCABULARY), padding="max_length", max_length=length, return_tensors="pt")
    return Trainee(Sam3Model(config), tokens.input_ids, tokens.attention_mask, MANY, sum(PIXEL_CLASSES))


def new_optimizer(trainee: Trainee, fused: bool) -> torch.optim.AdamW:
    learning = [(name, p) for name, p in trainee.named_parameters() if p.requires_grad]
    plain = [p for name, p in learning if p.dim() < 2 or "embed" in name or "points" in name]
    matrices = [p for name, p in learning if not (p.dim() < 2 or "embed" in name or "points" in name)]
    groups: list[dict[str, Any]] = [{"params": plain, "weight_decay": 0.0}, {"params": matrices}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=_DECAY, fused=fused)


class Trainer:
    """One process's model, averaged model and optimiser."""

    def __init__(self, worker: Worker, rate: float, eager: bool = False) -> None:
        torch.manual_seed(0)  # every process begins with the same weights
        self.worker, self.rate = worker, rate
        kind = worker.device.type
        self.trainee = new_trainee().to(worker.device)
        if kind == "cuda":
            self.trainee = self.trainee.to(memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.trainee).requires_grad_(False).eval()
        self.optimizer = new_optimizer(self.trainee, fused=kind == "cuda")
        self.gradients = flat_gradients(p for p in self.trainee.parameters() if p.requires_grad)
        self.learn = Recorded(self.learn_eagerly, worker.device, wanted=not eager)

    @property
    def autocast(self) -> torch.autocast:
        """Autocast without its cache: a recorded step must convert the weights to bfloat16 at each replay."""
        kind = self.worker.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda", cache_enabled=False)

    def learn_eagerly(self, batch: Batch) -> Tensor:
        """Write the gradients of a batch into the buffer; return each loss of ``WEIGHTS`` and their sum, [n + 1]."""
        self.gradients.zero_()
        with self.autocast:
            parts = losses(self.trainee, self.trainee(*batch.inputs()), batch)
        loss = total(parts)
        torch.autograd.backward(loss)
        return torch.stack([*(parts[name] for name in WEIGHTS), loss]).detach()

    def step(self, batch: Batch, number: int, fraction: float) -> dict[str, Tensor]:
        """Train on a batch; return the losses by name, on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.rate, number, fraction)
        self.trainee.train()
        values = self.learn(batch)
        if self.worker.count > 1:
            dist.all_reduce(self.gradients)
            self.gradients /= self.worker.count
        norm = clip(self.gradients, _CLIP)
        self.optimizer.step()
        average(self.averaged, self.trainee, number)
        return dict(zip((*WEIGHTS, "loss"), values, strict=True)) | {"norm": norm}


def train(settings: Settings, worker: Worker) -> None:
    """Train for one stretch, from the state in ``settings.resume`` if there is one."""
    trainer = Trainer(worker, settings.rate, settings.eager)
    progress = Progress()
    if (settings.resume / "state").is_dir():
        progress = read_state(settings.resume / "state", trainer.trainee, trainer.averaged, trainer.optimizer)
        log_first(worker, f"continues from step {progress.step}, {progress.seconds / 60:.1f} minutes trained")
    progress.stretch += 1
    patch = trainer.trainee.patch
    held_out = build(
        ask(np.random.default_rng(HELD_OUT), settings.check_images), worker.device, 336, 336 // patch, jitter=0
    )
    questions = loader(settings.images, settings.workers, worker.rank, progress.stretch)
    log = Log(settings, worker)
    clock = Clock(settings.minutes, settings.total_minutes, progress.seconds, worker.count)
    feeder = Feeder(questions, worker.device, patch, progress.step, clock.fraction)
    checked = clock.seconds
    while not clock.over:
        batch = feeder.take()
        parts = trainer.step(batch, progress.step, clock.fraction)
        feeder.prepare(clock.fraction)
        progress.step += 1
        if worker.count == 1 or progress.step % _AGREE_EVERY == 0:
            clock.agree()
            progress.seconds = clock.seconds
        log.add(parts, len(batch.pixels), progress, clock, feeder, trainer.optimizer.param_groups[0]["lr"])
        if clock.seconds - checked > settings.check_minutes * 60:
            checked = clock.seconds
            if worker.first:
                keep(settings, trainer, progress, held_out, log)
    if worker.first:
        keep(settings, trainer, progress, held_out, log)


def keep(settings: Settings, trainer: Trainer, progress: Progress, held_out: Batch, log: Log) -> None:
    """Check the averaged weights, and write the state."""
    with trainer.autocast:
        log.write({"step": progress.step, "minutes": round(progress.seconds / 60, 2)}
                  | {"check": check(trainer.averaged, [held_out])})  # fmt: skip
    write_state(settings.run / "state", progress, trainer.trainee, trainer.averaged, trainer.optimizer)


class Log:
    """``log.jsonl``: one JSON object per line, with means over the steps since the line before."""

    def __init__(self, settings: Settings, worker: Worker) -> None:
        self.file, self.worker, self.images = settings.run / "log.jsonl", worker, 0
        self.parts: list[dict[str, Tensor]] = []
        self.since, self.waited = time.monotonic(), 0.0
        before = settings.resume / "log.jsonl"
        if worker.first and before != self.file and before.is_file() and not self.file.is_file():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_bytes(before.read_bytes())

    def add(
        self, parts: dict[str, Tensor], images: int, progress: Progress, clock: Clock, feeder: Feeder, rate: float
    ) -> None:
        self.parts.append(parts)
        self.images += images * self.worker.count
        if progress.step % _LOG_EVERY:
            return
        names = list(self.parts[0])
        means = torch.stack([torch.stack(list(one.values())) for one in self.parts]).mean(0).tolist()
        now = time.monotonic()
        spent, waited = now - self.since, feeder.waited - self.waited
        self.write(
            {"step": progress.step, "minutes": round(clock.seconds / 60, 2), "rate": rate}
            | {name: round(mean, 5) for name, mean in zip(names, means, strict=True)}
            | {"ms": round(spent / len(self.parts) * 1e3, 1), "images_per_s": round(self.images / spent, 1)}
            | {"waiting": round(waited / spent, 3)}
        )
        self.parts, self.images, self.since, self.waited = [], 0, now, feeder.waited

    def write(self, line: dict[str, Any]) -> None:
        if self.worker.first:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with open(self.file, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)


def write_checkpoint(settings: Settings, folder: Path) -> None:
    """Write the averaged weights as a checkpoint, in float16 (readers convert them to float32)."""
    trainee, averaged = new_trainee(), new_trainee()
    progress = read_state(settings.resume / "state", trainee, averaged)
    checkpoint.write(averaged.sam3.half(), folder)
    print(f"wrote {folder}: {progress.step} steps, {progress.seconds / 60:.1f} minutes")


def log_first(worker: Worker, text: str) -> None:
    """Print ``text`` in the first process only."""
    if worker.first:
        print(text, flush=True)


def this_worker() -> Worker:
    """Return this process's rank, count and device, from ``torchrun``'s variables if they are set."""
    count, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
        torch.backends.cuda.enable_cudnn_sdp(False)  # it has no gradient for an additive mask
        torch.set_float32_matmul_precision("high")
    if count > 1:
        if os.environ.get("LOCAL_WORLD_SIZE") == str(count) and Path("/sys/class/net/lo").exists():
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine, whose host name may not resolve
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    return Worker(rank, count, device)


def parse() -> Settings:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--resume", type=Path, help="the folder of an earlier stretch; RUN by default")
    parser.add_argument("--minutes", type=float, default=25.0, help="of this stretch")
    parser.add_argument("--total-minutes", type=float, default=60.0, help="of all stretches")
    parser.add_argument(
        "--images", type=int, default=64, help="per step and process at the largest sizes; more at small ones"
    )
    parser.add_argument("--workers", type=int, default=12, help="processes that draw scenes, per training process")
    parser.add_argument("--rate", type=float, default=8e-4, help="the highest learning rate")
    parser.add_argument(
        "--check-minutes", type=float, default=3.0, help="between checks, each of which saves the state"
    )
    parser.add_argument("--check-images", type=int, default=64, help="held-out images of a check")
    parser.add_argument("--eager", action="store_true", help="without CUDA graphs")
    parser.add_argument("--write", type=Path, help="write the checkpoint into this folder at the end")
    given = vars(parser.parse_args())
    given["resume"] = given["resume"] or given["run"]
    return Settings(**given)


def main() -> None:
    settings = parse()
    worker = this_worker()
    try:
        if settings.minutes > 0:
            train(settings, worker)
        if settings.write is not None and worker.first:
            write_checkpoint(settings, settings.write)
    except Sam3Error as error:
        sys.exit(f"Error: {error}")
    finally:
        if worker.count > 1:
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
