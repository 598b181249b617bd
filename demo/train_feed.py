"""Batches in time: worker processes draw what is asked, and the device draws pictures while it learns from the last.

Knows when a batch is made and in which stream, not what is in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from demo.scenes import training_stream
from demo.train_data import Batch, Questions, ask, build

RESOLUTIONS = {336: 0.55, 280: 0.15, 224: 0.2, 168: 0.1}
"""Pixels, and the share of the steps that are made at that size."""


class _Stream(IterableDataset[Questions]):
    """Endless questions; every worker of every process of every stretch draws its own."""

    def __init__(self, images: int, *stream: int) -> None:
        self.images, self.stream = images, stream

    def __iter__(self) -> Iterator[Questions]:
        worker = get_worker_info()
        rng = training_stream(*self.stream, worker.id if worker else 0)
        while True:
            yield ask(rng, self.images)


def loader(images: int, workers: int, *stream: int) -> Iterator[Questions]:
    """Questions of ``images`` scenes each, from ``workers`` processes (0: this one). ``stream``: rank and stretch."""
    return iter(DataLoader(_Stream(images, *stream), batch_size=None, num_workers=workers))


class Feeder:
    """Batches on the device, each made while the step before it runs: on a GPU, in a stream of its own.

    ``waited`` counts the seconds spent waiting for the workers.
    """

    def __init__(self, questions: Iterator[Questions], device: torch.device, patch: int, first_step: int) -> None:
        self.questions, self.device, self.patch = questions, device, patch
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        if self.stream is not None:  # pictures that scenes are made from may just have been sent
            self.stream.wait_stream(torch.cuda.current_stream(device))
        self.waited = 0.0
        self._step = first_step
        self._next = self._make()

    def _make(self) -> Batch:
        # All processes take the same resolution at the same step, so that none waits for another.
        rng = np.random.default_rng([2, self._step])
        resolution = int(rng.choice(list(RESOLUTIONS), p=list(RESOLUTIONS.values())))
        started = time.monotonic()
        questions = next(self.questions)
        self.waited += time.monotonic() - started
        self._step += 1
        with torch.cuda.stream(self.stream):  # without one, this does nothing
            return build(questions, self.device, resolution, resolution // self.patch)

    def take(self) -> Batch:
        if self.stream is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self.stream)
            for tensor in self._next.tensors():
                tensor.record_stream(current)
        return self._next

    def prepare(self) -> None:
        """Make the next batch; called when the current step has been handed to the GPU."""
        self._next = self._make()
