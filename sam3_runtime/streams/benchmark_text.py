"""The Markdown report of :mod:`sam3_runtime.streams.benchmark`, from its record alone."""

from __future__ import annotations

from sam3_runtime.core.wording import counted
from sam3_runtime.records.measurements import StreamBench
from sam3_runtime.report.pages import RANDOM_NOTE, checkpoint_is_random
from sam3_runtime.report.tables import grid, marked, page

_LEGEND = (
    "A round is a batch of frames, from one round's end to the next one's: decoding, preprocessing, engines, "
    "postprocessing, nothing written. `ratio` is the mean round over the time of its engine calls, each alone; "
    "`ratio_inside` over the time of the same calls within the run. A frame's latency is from reading it to its "
    "detections: files wait in full queues. `gpu_busy` is the driver's share of time with any kernel running."
)


def markdown(bench: StreamBench) -> str:
    """Return the conditions, a table of the run, and one of each kind of call."""
    height, width = bench.pictures[0]
    sizes = f"{width} x {height}" if len(set(bench.pictures)) == 1 else "several sizes"
    selected = f"the best {bench.kept} of each class" if bench.kept else "detections above the threshold"
    conditions = [
        f"device: {bench.device}",
        f"driver: {bench.driver}" if bench.driver else None,
        f"backend: {bench.backend} {bench.toolchain.version}",
        f"checkpoint: {bench.checkpoint} ({bench.checkpoint_digest[:12]})",
        f"date: {bench.date}",
        f"threads: {bench.threads}" if bench.threads else None,
        _clocks(bench) if bench.clocks else None,
    ]
    run = (
        f"{counted(bench.cameras, 'camera')} of {sizes}, {counted(bench.classes, 'class')}, {selected}: "
        f"{counted(bench.masks, 'mask')} a round of {counted(bench.images, 'frame')}; "
        f"{counted(bench.frames, 'frame')} in {bench.seconds:g} s."
    )
    memory = bench.device_memory.peak_mib if bench.device_memory else None
    row = {
        "variant": bench.variant,
        "fps": f"{bench.fps:.1f}",
        "fps_per_camera": f"{bench.fps_per_camera:.2f}",
        "round_ms": marked(f"{bench.rounds.median:.1f}", bench.stable),
        "round_p95": f"{bench.rounds.p95:.1f}",
        "engines_ms": f"{bench.engines_ms:.1f}",
        "ratio": f"{bench.ratio:.3f}",
        "ratio_inside": f"{bench.ratio_inside:.3f}" if bench.ratio_inside else None,
        "frame_ms": f"{bench.frame.median:.1f}",
        "frame_p95": f"{bench.frame.p95:.1f}",
        "gpu_busy": f"{bench.busy_percent:.0f} %" if bench.busy_percent is not None else None,
        "vram_mib": f"{memory:.0f}" if memory is not None else None,
        "memory_mib": f"{bench.memory_peak_mib:.0f}",
    }
    calls = [
        {
            "part": call.part,
            "inputs": " ".join(f"{symbol}={size}" for symbol, size in call.shape.items()),
            "calls a round": f"{call.calls:g}",
            "alone_ms": marked(f"{call.alone.median:.2f}", call.stable),
            "p95": f"{call.alone.p95:.2f}",
        }
        for call in bench.calls
    ]
    return page(
        "; ".join(filter(None, conditions)),
        run,
        grid([row]),
        grid(calls) if calls else None,
        RANDOM_NOTE if checkpoint_is_random({"name": bench.checkpoint}) else None,
        _LEGEND,
    )


def _clocks(bench: StreamBench) -> str:
    during = bench.clocks.during if bench.clocks else None
    if during is None or during.sm_mhz is None:
        return "clocks: unknown"
    memory = "unknown" if during.memory_mhz is None else f"{during.memory_mhz:g} MHz"
    return f"clocks: SM {during.sm_mhz:g} MHz, memory {memory}"
