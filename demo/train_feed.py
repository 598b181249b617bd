"""Prepares batches: worker processes sample scenes and prompts, the device renders them during the step before.

Decides when a batch is made, in which CUDA stream and at which resolution, not its content.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from demo.scenes import training_stream
from demo.train_data import Batch, Questions, ask, build, join

SHARES = {168: (0.5, 0.08), 224: (0.3, 0.12), 280: (0.1, 0.1), 336: (0.1, 0.7)}
"""The share of the steps at each resolution (pixels), at first and in the end. Small images teach most of the task at a
fraction of the cost; every resolution is trained until the end, since every one is used."""
SETTLED = 0.6
"""Share of the whole time after which these shares are constant."""
HALVES = {168: 3, 224: 2, 280: 2, 336: 2}
"""Images of a step at each resolution, in halves of ``--images``: as many of the smallest would not fill a GPU."""
_AHEAD = 2  # steps that the host may be ahead of the GPU; each batch takes memory


def shares(fraction: float) -> dict[int, float]:
    """Return the share of the steps at each resolution, after ``fraction`` of the time."""
    done = min(fraction / SETTLED, 1.0)
    return {resolution: first + done * (last - first) for resolution, (first, last) in SHARES.items()}


def resolution_of(step: int, fraction: float) -> int:
    """Return the resolution of a step: the same in every process with the same fraction, so that none waits."""
    chances = shares(fraction)
    return int(np.random.default_rng([2, step]).choice(list(chances), p=list(chances.values())))


class _Stream(IterableDataset[Questions]):
    """Endless prompts; every worker of every process of every stretch has its own random stream."""

    def __init__(self, images: int, *stream: int) -> None:
        self.images, self.stream = images, stream

    def __iter__(self) -> Iterator[Questions]:
        worker = get_worker_info()
        rng = training_stream(*self.stream, worker.id if worker else 0)
        while True:
            yield ask(rng, self.images)


def loader(images: int, workers: int, *stream: int) -> Iterator[Questions]:
    """Return an iterator over prompts of half of ``images`` scenes each, from ``workers`` processes (0: this one).
    ``stream``: rank and stretch."""
    return iter(DataLoader(_Stream(max(1, images // 2), *stream), batch_size=None, num_workers=workers))


class Feeder:
    """Batches on the device, each made during the step before: on a GPU, in a CUDA stream of its own.

    ``fraction`` is the elapsed share of the whole time, equal in all processes. ``waited`` is the time in seconds that
    was spent waiting for the workers.
    """

    def __init__(
        self, questions: Iterator[Questions], device: torch.device, patch: int, first_step: int, fraction: float
    ) -> None:
        self.questions, self.device, self.patch = questions, device, patch
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        if self.stream is not None:  # the background photographs may still be copied
            self.stream.wait_stream(torch.cuda.current_stream(device))
        self.waited = 0.0
        self._step = first_step
        self._handed: deque[torch.cuda.Event] = deque()
        self._next = self._make(fraction)

    def _make(self, fraction: float) -> Batch:
        resolution = resolution_of(self._step, fraction)
        started = time.monotonic()
        questions = join([next(self.questions) for _ in range(HALVES[resolution])])
        self.waited += time.monotonic() - started
        draw = np.random.default_rng([3, self._step])
        self._step += 1
        with torch.cuda.stream(self.stream):  # None: no effect
            return build(questions, self.device, resolution, resolution // self.patch, draw=draw)

    def take(self) -> Batch:
        if self.stream is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self.stream)
            for tensor in self._next.tensors():
                tensor.record_stream(current)
        return self._next

    def prepare(self, fraction: float) -> None:
        """Make the next batch; call it after the current step was submitted to the GPU."""
        if self.stream is not None:
            self._handed.append(torch.cuda.current_stream(self.device).record_event())
            if len(self._handed) > _AHEAD:
                self._handed.popleft().synchronize()
        self._next = self._make(fraction)
