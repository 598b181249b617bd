"""Runs the forward and backward pass of a step as CUDA graphs: recorded once for each shape of batch, then replayed.

A step is thousands of small kernels, which take longer to launch than to run. A recorded step must have fixed shapes,
must not synchronise with the host, and reads and writes the same memory at each replay: batches are copied into fixed
tensors, and gradients are in one buffer. Independent of the losses.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from demo.train_data import Batch

_WARM_UPS = 2  # runs before recording, in which libraries allocate workspaces and choose kernels
_ALIGNED = 64  # elements: alignment of each parameter's gradient

Shapes = tuple[torch.Size, ...]


@dataclass(frozen=True)
class _Recording:
    batch: Batch
    graph: torch.cuda.CUDAGraph
    result: Tensor


class Recorded:
    """Calls ``work`` for a batch and returns its tensor; on a GPU, through a CUDA graph for each shape of batch.

    Other results of ``work`` must be in tensors whose memory does not move. If a recording fails, a message is printed
    and batches of that shape run without a graph: training continues.
    """

    def __init__(self, work: Callable[[Batch], Tensor], device: torch.device, wanted: bool = True) -> None:
        self.work, self.device = work, device
        self.wanted = wanted and device.type == "cuda"
        self._recordings: dict[Shapes, _Recording | None] = {}
        self._pool = torch.cuda.graph_pool_handle() if self.wanted else None  # shared, since graphs run one at a time

    def __call__(self, batch: Batch) -> Tensor:
        if not self.wanted:
            return self.work(batch)
        shapes = tuple(tensor.shape for tensor in batch.tensors())
        if shapes not in self._recordings:
            self._recordings[shapes] = self._try_to_record(batch)
        recording = self._recordings[shapes]
        if recording is None:
            return self.work(batch)
        for own, new in zip(recording.batch.tensors(), batch.tensors(), strict=True):
            own.copy_(new, non_blocking=True)
        recording.graph.replay()
        return recording.result.clone()  # the next graph may overwrite it

    def _try_to_record(self, batch: Batch) -> _Recording | None:
        stream = torch.cuda.current_stream(self.device)
        try:
            with torch.cuda.stream(stream):  # restores the stream, which a failed recording may leave changed
                return self._record(batch)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            print(f"no CUDA graph for {tuple(batch.pixels.shape)}, continues without: {reason}", flush=True)
            self._end_recording()
            return None

    def _end_recording(self) -> None:
        """Release the allocator from a recording that failed: during a recording it frees no memory that several
        streams have used, which includes every batch."""
        pool, self._pool = self._pool, torch.cuda.graph_pool_handle()
        if pool is not None:
            with contextlib.suppress(Exception):
                torch._C._cuda_endAllocateToPool(self.device.index, pool)
        with contextlib.suppress(Exception):
            torch.cuda.synchronize(self.device)

    def _record(self, batch: Batch) -> _Recording:
        own = Batch(*(tensor.clone() for tensor in batch.tensors()))
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self.work(own)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        torch.cuda.synchronize(self.device)
        gc.collect()  # no tensor of an earlier step may remain tied to its stream
        graph = torch.cuda.CUDAGraph()
        # Only this thread's calls are checked: those of NCCL's watchdog thread would end the recording.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = self.work(own)
        return _Recording(own, graph, result)


def flat_gradients(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Give each parameter a zero gradient that is a view of one buffer [n], with the parameter's strides.

    Backward passes add to these views, so that only the buffer has to be zeroed, averaged and clipped.
    """
    several = list(parameters)
    starts, end = [], 0
    for parameter in several:
        starts.append(end)
        end += -(-parameter.numel() // _ALIGNED) * _ALIGNED
    buffer = torch.zeros(end, device=several[0].device)
    for parameter, start in zip(several, starts, strict=True):
        parameter.grad = buffer.as_strided(parameter.shape, parameter.stride(), start)
    return buffer


@torch.no_grad()
def clip(gradients: Tensor, most: float) -> Tensor:
    """Scale gradients to a norm of at most ``most``; return the norm before. If it is not finite, they become zero:
    one such step must not end a run."""
    norm: Tensor = torch.linalg.vector_norm(gradients)
    scaled = gradients * (most / (norm + 1e-6)).clamp(max=1)
    gradients.copy_(torch.where(norm.isfinite(), scaled, 0))
    return norm
