"""Messages of NVIDIA's builder and parser: collected, printed, and explained.

The texts are NVIDIA's, of TensorRT-RTX 1.7 and TensorRT 8.6 to 11; each is passed on as it is, with what to do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sam3_runtime.core.errors import BuildError
from sam3_runtime.core.wording import counted

EXPECTED = {
    r"Missing scale and zero-point for tensor": (
        "these tensors have no 8-bit scale, so that the layers that read or write them run in floating point; the "
        "calibration's JSON lists those of the graph"
    ),
    r"generated with INT64 weights": "indices and sizes fit into int32, and TensorRT 8.6 binds them so",
    r"weights outside the range of INT32 was clamped": "open ends of slices are the largest number of either type",
    r"Tensor DataType is determined at build time": "those of inputs and outputs are set, others are its choice",
    r"CUDA lazy loading is not enabled": "loading all kernels at once costs memory and changes nothing",
    r"Make sure (?:input|output) \S+ has Int64 binding": "these tensors are int64, and the runtime binds them so",
    r"Converting \w+ (?:activation|weight) scales to fp32": "scales of 8 bits are float16 here, and float32 holds each",
}
"""Warnings that a correct engine draws too, each with the reason."""
OUT_OF_MEMORY = r"[Oo]ut of memory|OutOfMemory|bad_alloc|Could not find any implementation|cudaErrorMemoryAllocation"
FIXES = {
    r"target\(s\) ([\w, ]+), because the model contains HW-specific datatypes: fp8": (
        "FP8 needs Ada (89) or newer: take older ones out of build.rtx.gpus, or use quantize: int8, which they have"
    ),
    r"for Turing \(SM75\)": (
        "TensorRT-RTX gives Turing no float32 products: build with precision: fp16, or take turing out of "
        "build.rtx.gpus"
    ),
    r"Range!|same (?:input )?types|inconsistent types|mismatch|Plugin not found|No importer|not supported": (
        "this builder cannot read the graph as it is: export it again with this version, or build with the version "
        "that it was exported for"
    ),
    OUT_OF_MEMORY: (
        "the build ran out of memory: close other programs, or build a smaller batch; a build.tensorrt.workspace_mib "
        "that is too small gives the same message"
    ),
    r"tensor volume exceeds": (
        "TensorRT before 10 addresses 2**31 elements of a tensor: build a smaller batch (graphs are cut for 8 images), "
        "or with a newer TensorRT"
    ),
    r"CUDA driver version is insufficient|no CUDA-capable device": (
        "install or update the NVIDIA driver; TensorRT-RTX needs none: name the GPUs' generations, "
        "build: {rtx: {gpus: [ada]}}"
    ),
}
"""What to do about an error, by its text; the first that matches counts."""
OTHERWISE = "the job's log has every message"
_MEMORY = {
    "weights": r"Total Weights Memory: (\d+)",
    "persistent": r"Total Device Persistent Memory: (\d+)",
    "scratch": r"(?:Max|Total) Scratch Memory: (\d+)",
    "activation": r"Total Activation Memory: (\d+)",
}
_PHASE = re.compile(r"(?:Computing costs for|Timing Runner:|After [\w -]+:).*")
_RECALIBRATES = re.compile(r"Calibration table does not match|Starting Calibration")
_ZERO = re.compile(r"Tensor (.+?) is uniformly zero")
_NOISE = re.compile(r"While parsing node|(?:Begin|End) node|^Node name:|ModelImporter\.cpp|catchCudaError")
_SHOWN = 100  # characters of a message in an announcement


@dataclass
class BuildLog:
    """The messages of a build. They are printed as they come; what matters afterwards is kept."""

    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)  # bytes
    last: str = ""
    zeros: set[str] = field(default_factory=set)  # tensors in which a calibration saw nothing but zeros
    recalibrates: bool = False  # TensorRT starts a calibration although it was given a cache

    def note(self, severity: str, text: str) -> None:
        """Take one message; ``severity`` is NVIDIA's name for it."""
        if severity == "VERBOSE":
            phase = _PHASE.search(text)
            self.last = phase[0][:_SHOWN] if phase else self.last
            return  # thousands of lines for a full-size graph
        self.last = text.partition("\n")[0][:_SHOWN]
        self.recalibrates = self.recalibrates or _RECALIBRATES.search(text) is not None
        self.zeros.update(_ZERO.findall(text))
        print(f"[{severity}] {text}", flush=True)
        if severity == "WARNING":
            self.warnings.append(text)
        elif severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(text)
        for name, pattern in _MEMORY.items():
            for size in re.findall(pattern, text):  # the largest counts, should a message come for each generation
                self.memory[name] = max(self.memory.get(name, 0), int(size))

    @property
    def weights(self) -> int | None:
        """Bytes that stay on the device: weights, and memory that layers keep between runs."""
        known = self.memory.get("weights")
        return None if known is None else known + self.memory.get("persistent", 0)

    def explain_warnings(self) -> list[str]:
        """Print what the warnings mean, once for each kind; return those that are not known."""
        known = EXPECTED.items()
        found = [(text, next((why for one, why in known if re.search(one, text)), None)) for text in self.warnings]
        for reason in dict.fromkeys(reason for _, reason in found if reason):
            count = sum(reason == other for _, other in found)
            print(f"expected, {count} of {counted(len(found), 'warning')}: {reason}")
        unexplained = list(dict.fromkeys(text for text, reason in found if reason is None))
        for text in unexplained:
            print(f"A warning that this version cannot explain: {text}")
        return unexplained


class OutOfMemory(BuildError):
    """The build ran out of memory; a smaller workspace may help."""


def build_error(what: str, messages: list[str]) -> BuildError:
    """Return the error for a build that failed, with NVIDIA's messages and what to do.

    It is :class:`OutOfMemory` where they mean that, which TensorRT also expresses as finding no implementation.
    """
    text = "\n".join(messages)
    pattern, hint = next(((one, fix) for one, fix in FIXES.items() if re.search(one, text)), ("", OTHERWISE))
    # Without the echoes of one failure from every level that it passed.
    lines = [line for line in text.splitlines() if line.strip() and not _NOISE.search(line)]
    kind = OutOfMemory if pattern == OUT_OF_MEMORY else BuildError
    return kind(f"{what}: {'; '.join(dict.fromkeys(lines)) or 'it gave no reason'}", hint)
