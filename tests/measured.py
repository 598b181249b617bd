"""Measurements for tests: valid, with what a test wants to be different."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sam3_runtime.families.sam3.parts import PART_NAMES
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.measurements import (
    Baseline,
    BaselineRun,
    BaselineWay,
    BenchResult,
    CameraBench,
    Clocks,
    DeviceMemory,
    Latency,
    Measured,
    PartBench,
    Reading,
    Rounds,
    facts_of,
    latency,
)
from sam3_runtime.records.records import Check, Toolchain
from tests.engine_records import engine_record

GPU = "NVIDIA H200"
DIGEST = "2" * 64
STAGES = ("preprocess", "vision", "prompt", "decoder", "postprocess")


def spread(median: float) -> Latency:
    return latency([median * 0.9, median, median * 1.2])


def rounds(vision: float = 3.0, image: float = 10.0) -> dict[str, Any]:
    """Cameras 1 and 8 at ``image`` ms an image; the vision encoder alone at ``vision`` ms an image."""
    cameras = tuple(
        CameraBench(
            cameras=count,
            end_to_end=spread(image * count),
            stages={stage: spread(count * (vision if stage == "vision" else 1.0)) for stage in STAGES},
            fps_per_camera=1e3 / (image * count),
            stable=True,
            masks_kept=80.0 * count,
            samples_ms=(image * count,),
        )
        for count in (1, 8)
    )
    calls = (("vision-encoder", 1, 0), ("vision-encoder", 8, 0), ("decoder", 1, 8), ("decoder", 8, 8))
    parts = tuple(
        PartBench(part=part, images=n, prompts=p, latency=spread(vision * n if p == 0 else 2.0 * n), stable=True)
        for part, n, p in calls
    )
    return {"cameras": cameras, "parts": parts}


def bench(
    name: str, engines: Mapping[str, str], vision: float = 3.0, image: float = 10.0, **changes: Any
) -> BenchResult:
    fields: dict[str, Any] = {
        "variant": name,
        "backend": "tensorrt",
        "device": GPU,
        "driver": "580.1",
        "toolchain": Toolchain(backend="tensorrt", version="8.6.1", gpu=GPU, compute_capability="9.0"),
        "checkpoint": "random",
        "checkpoint_digest": DIGEST,
        "engines": dict(engines),
        "date": "2026-01-01",
        "threads": None,
        "prompts": 4,
        "load_seconds": 0.5,
        "memory_before_mib": 100.0,
        "memory_peak_mib": 500.4,
        "device_memory": DeviceMemory(
            method="process", before_mib=3.0, loaded_mib=2400.0, ready_mib=1900.0, peak_mib=2000.0
        ),
        "clocks": Clocks(
            before=Reading(sm_mhz=345.0), during=Reading(sm_mhz=1980.0, memory_mhz=3201.0, power_w=600.0), samples=9
        ),
        "without": {"cuda_graphs": Rounds(**rounds(vision * 1.1, image * 1.25))},
        **rounds(vision, image),
    }
    return BenchResult(**fields | changes)


def measured(name: str = "b8_q50_r672", vision: float = 3.0, image: float = 10.0, **changes: Any) -> Measured:
    """A variant that passed; ``changes`` are of its benchmark, or, as ``vision_record``, of its encoder's record."""
    variant = Variant.from_name(name)
    eight = None if variant.quantize == "none" else variant.quantize
    graph = {"quantize": eight, "graph": f"vision-encoder_{eight}"} if eight else {}
    own = graph | changes.pop("vision_record", {})
    records = {
        str(part): engine_record(part, backend="tensorrt", **(own if part == "vision-encoder" else {}))
        for part in PART_NAMES
    }
    digests = {part: record.sha256 for part, record in records.items()}
    return Measured(
        variant=name,
        status="passed",
        reason="12 of 12 detections agree",
        checks=(Check(name="mask cosine", value=0.99995, limit=0.999, sense="at least"),),
        detections=12,
        found=11,
        engines=facts_of(records),
        bench=bench(name, digests, vision, image, **changes),
    )


def baseline(resolution: int = 672, **changes: Any) -> Baseline:
    """transformers at 9 ms an image and compiled at 6, rounds at 20 and 15 ms an image."""

    def way(name: Any, vision: float, image: float) -> BaselineWay:
        runs = tuple(
            BaselineRun(
                batch=batch,
                vision=spread(vision * batch),
                end_to_end=spread(image * batch),
                stable=True,
                allocated_mib=3000.0,
                reserved_mib=4000.0,
                samples_ms={},
            )
            for batch in (1, 8)
        )
        return BaselineWay(name=name, attention="sdpa", runs=runs)

    fields: dict[str, Any] = {
        "resolution": resolution,
        "device": GPU,
        "driver": "580.1",
        "precision": "float16",
        "libraries": {"torch": "2.11.0", "transformers": "5.17.0"},
        "checkpoint": "random",
        "checkpoint_digest": DIGEST,
        "date": "2026-01-01",
        "prompts": 4,
        "masks": 20,
        "picture": (720, 1280),
        "process_mib": None,
        "clocks": None,
        "ways": (way("transformers", 9.0, 20.0), way("torch.compile", 6.0, 15.0)),
    }
    return Baseline(**fields | changes)
