"""CUDA graphs: launches that are recorded once and replayed as one.

pycuda lacks them, so the driver's own library is called through ctypes.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

from sam3_runtime.core.errors import EngineError
from sam3_runtime.engines.running.cuda import Cuda

_CAPTURE_THREAD_LOCAL = 1


def capture(cuda: Cuda, enqueue: Callable[[], None]) -> CudaGraph | None:
    """Record the launches of ``enqueue`` as one; None where the driver or a library refuses to."""
    library = _driver_library()
    if library is None:
        return None
    cuda.synchronize()
    with cuda.current():
        stream = ctypes.c_void_p(cuda.stream_handle)
        if library.cuStreamBeginCapture_v2(stream, _CAPTURE_THREAD_LOCAL):
            return None
        graph, executable, refused = ctypes.c_void_p(), ctypes.c_void_p(), False
        try:
            enqueue()
        except EngineError:
            refused = True
        if library.cuStreamEndCapture(stream, ctypes.byref(graph)) or not graph:
            return None
        if not refused:
            flags = ctypes.c_ulonglong(0)
            refused = bool(library.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, flags))
        library.cuGraphDestroy(graph)
    return None if refused else CudaGraph(cuda, library, executable)


class CudaGraph:
    """Launches that are replayed as one."""

    def __init__(self, cuda: Cuda, library: Any, executable: Any) -> None:
        self._cuda, self._library, self._executable = cuda, library, executable

    def launch(self) -> None:
        """Put the launches on the main stream; raises :class:`EngineError` where the driver refuses."""
        with self._cuda.current():
            status = self._library.cuGraphLaunch(self._executable, ctypes.c_void_p(self._cuda.stream_handle))
        if status:
            message = f"a CUDA graph could not be launched (CUDA error {status})"
            raise EngineError(message, "load with cuda_graphs=False")

    def close(self) -> None:
        """Free the graph. Closing twice does nothing."""
        if self._executable is not None:
            with self._cuda.current():
                self._library.cuGraphExecDestroy(self._executable)
            self._executable = None


def _driver_library() -> Any:
    """Return the driver's library; None where it lacks graphs (older than CUDA 11.4)."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    return library if hasattr(library, "cuGraphInstantiateWithFlags") else None
