"""What NVIDIA's builder and parser say: collected, printed, and turned into what to do.

The texts are NVIDIA's, of TensorRT-RTX 1.7 and TensorRT 8.6 to 11; each is passed on as it is, with the fix behind it.
Knows texts alone: no API, no files.
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
    r"Make sure (?:input|output) \S+ has Int64 binding": "the contract has int64 there, and the runtime binds it so",
    r"Converting \w+ (?:activation|weight) scales to fp32": "scales of 8 bits are float16 here, and float32 holds each",
    r"operand \S*Clip\S*_(?:alpha|beta) payload type requires precision-lose casting": (
        "a Clip without that bound gets float32's largest number for one, which in float16 bounds nothing either"
    ),
}
"""Warnings that an engine as it should be draws too, each with the reason. Whatever else is warned of stands out."""

OUT_OF_MEMORY = r"[Oo]ut of memory|OutOfMemory|bad_alloc|Could not find any implementation|cudaErrorMemoryAllocation"
FIXES = {
    r"target\(s\) ([\w, ]+), because the model contains HW-specific datatypes: fp8": (
        "FP8 needs Ada (89) or newer: take older ones out of build.rtx.gpus, or use quantize: int8, which they have"
    ),
    r"for Turing \(SM75\)": (
        "TensorRT-RTX gives Turing no float32 products: build with precision: fp16, or take turing out of "
        "build.rtx.gpus"
    ),
    r"Range!": (
        "a Range of this type is computed while exporting or stays float32: export the graph again with this version"
    ),
    r"must have same (?:input )?types|inconsistent types|type mismatch": (
        "types are the graph's own, and nothing is cast unasked: export the graph again with this version"
    ),
    r"Plugin not found|No importer|not supported|UNSUPPORTED_NODE": (
        "the graph holds what this parser does not know: export it again with this version, or build with the "
        "version that it was exported for"
    ),
    OUT_OF_MEMORY: (
        "the build ran out of memory: close what else runs, or build a smaller batch; a build.tensorrt.workspace_mib "
        "that is too small says the same"
    ),
    r"tensor volume exceeds": (
        "TensorRT before 10 addresses 2**31 elements of a tensor: build a smaller batch (graphs are cut for 8 images), "
        "or with a newer TensorRT"
    ),
    r"CUDA driver version is insufficient|no CUDA-capable device": (
        "install or update the NVIDIA driver; TensorRT-RTX needs none: name the GPUs' generations, "
        "build: {rtx: {gpus: [ada]}}"
    ),
    r"dimensions? .*profile|[Pp]rofile .*(?:invalid|not valid|inconsistent)": (
        "the profile does not fit the graph: export the graph again with this version"
    ),
}
"""What to do about an error, by what it says; the first that matches counts."""
OTHERWISE = "the job's log has everything that it said"

_MEMORY = {
    "weights": r"Total Weights Memory: (\d+)",
    "persistent": r"Total Device Persistent Memory: (\d+)",
    "scratch": r"(?:Max|Total) Scratch Memory: (\d+)",
    "activation": r"Total Activation Memory: (\d+)",
}
_PHASE = re.compile(r"(?:Computing costs for|Timing Runner:|After [\w -]+:).*")
_RECALIBRATES = re.compile(r"Calibration table does not match|Starting Calibration")
_ZERO = re.compile(r"Tensor (.+?) is uniformly zero")
_SHOWN = 100  # characters of a message, where people wait


@dataclass
class BuildLog:
    """Everything that a build says. It is printed as it comes; what matters afterwards is kept."""

    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    last: str = ""
    zeros: set[str] = field(default_factory=set)  # tensors in which a calibration saw nothing but zeros
    recalibrates: bool = False  # it wants to calibrate although it was given a cache

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
        else:
            self._note_memory(text)

    def _note_memory(self, text: str) -> None:
        for name, pattern in _MEMORY.items():
            found = re.search(pattern, text)
            if found:
                # Said once for all generations; should it be said for each, the largest is what one of them needs.
                self.memory[name] = max(self.memory.get(name, 0), int(found[1]))

    def overhear(self, output: str) -> None:
        """Take the warnings among what was written to standard error past the logger."""
        self.warnings += re.findall(r"^WARNING: (.+)$", output, flags=re.MULTILINE)

    @property
    def weights(self) -> int | None:
        """Bytes that stay on the device: weights, and what layers keep there between runs."""
        known = self.memory.get("weights")
        return None if known is None else known + self.memory.get("persistent", 0)

    def explain_warnings(self) -> list[str]:
        """Print what the warnings mean, once for each kind; return those that nobody has explained."""
        unexplained = [text for text in dict.fromkeys(self.warnings) if explanation(text) is None]
        reasons = dict.fromkeys(reason for text in self.warnings if (reason := explanation(text)))
        for reason in reasons:
            count = sum(explanation(text) == reason for text in self.warnings)
            print(f"expected, {count} of {counted(len(self.warnings), 'warning')}: {reason}")
        for text in unexplained:
            print(f"A warning that this version cannot explain: {text}")
        return unexplained


def explanation(warning: str) -> str | None:
    """Why a warning is to be expected; nothing for one that is not known."""
    return next((reason for pattern, reason in EXPECTED.items() if re.search(pattern, warning)), None)


class OutOfMemory(BuildError):
    """The build ran out of memory; a smaller workspace may help."""


def is_out_of_memory(said: list[str]) -> bool:
    """Whether a build failed for want of memory, which TensorRT also says as finding no implementation."""
    return re.search(OUT_OF_MEMORY, "\n".join(said)) is not None


def build_error(what: str, said: list[str]) -> BuildError:
    """The message for a graph that was refused: NVIDIA's own words, and the fix."""
    text = "\n".join(said)
    hint = next((fix for pattern, fix in FIXES.items() if re.search(pattern, text)), OTHERWISE)
    return BuildError(f"{what}: {_plain(said)}", hint)


def _plain(said: list[str]) -> str:
    """The sentences that say what is wrong, without the echoes of one failure from every level that it passed."""
    noise = re.compile(r"While parsing node|(?:Begin|End) node|^Node name:|ModelImporter\.cpp|catchCudaError")
    told = [line for text in said for line in text.splitlines() if line.strip() and not noise.search(line)]
    return "; ".join(dict.fromkeys(told)) or "it gave no reason"
