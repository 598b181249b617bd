"""The heavy part of a step as CUDA graphs: recorded once for each shape of batch, and then replayed in one call.

A step is thousands of small kernels, which take longer to launch than to run. What is recorded must have fixed shapes,
may not ask the host, and reads and writes the same memory at each replay: batches are copied into tensors of their
own, and gradients lie in one buffer. Knows batches as tensors, and nothing of what is learnt from them.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from demo.train_data import Batch

_WARM_UPS = 2  # runs before recording: libraries make their workspaces and choose their kernels
_ALIGNED = 64  # numbers: where a parameter's gradient may begin

Shapes = tuple[torch.Size, ...]


@dataclass(frozen=True)
class _Recording:
    batch: Batch
    graph: torch.cuda.CUDAGraph
    result: Tensor


class Recorded:
    """``work`` of a batch, whose tensor result it returns; on a GPU, as a graph for each shape of batch.

    ``work`` leaves what else it does in tensors that stay where they are. Where a recording fails, batches of that
    shape go on without, and a line says so: training must not end for it.
    """

    def __init__(self, work: Callable[[Batch], Tensor], device: torch.device, wanted: bool = True) -> None:
        self.work, self.device = work, device
        self.wanted = wanted and device.type == "cuda"
        self._recordings: dict[Shapes, _Recording | None] = {}
        self._pool = torch.cuda.graph_pool_handle() if self.wanted else None  # graphs run one at a time, and share it

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
        return recording.result.clone()  # the next graph may put something else there

    def _try_to_record(self, batch: Batch) -> _Recording | None:
        stream = torch.cuda.current_stream(self.device)
        try:
            with torch.cuda.stream(stream):  # a recording that fails may leave its own behind
                return self._record(batch)
        except Exception as error:
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            print(f"no CUDA graph for {tuple(batch.pixels.shape)}, goes on without: {said}", flush=True)
            self._end_recording()
            return None

    def _end_recording(self) -> None:
        """Have the allocator forget a recording that failed: while one is under way, it frees nothing that several
        streams have used, and every batch is."""
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
        gc.collect()  # nothing of an earlier step may stay tied to its stream
        graph = torch.cuda.CUDAGraph()
        # Only this thread's calls count as part of it: those of NCCL's watchdog are none of its concern.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = self.work(own)
        return _Recording(own, graph, result)


def flat_gradients(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Give each parameter a gradient, zero, that is a part of one buffer [n] and lies in memory as the parameter does.

    Backward passes add to these where they are, so that the buffer is all there is to zero, to average and to clip.
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
    """Scale gradients to a norm of at most ``most``, and give the norm they had. Those of no finite norm become zero:
    one such step must not end a run."""
    norm: Tensor = torch.linalg.vector_norm(gradients)
    scaled = gradients * (most / (norm + 1e-6)).clamp(max=1)
    gradients.copy_(torch.where(norm.isfinite(), scaled, 0))
    return norm
