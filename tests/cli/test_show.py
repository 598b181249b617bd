"""What commands print for people."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from sam3_runtime.cli.show import print_variant
from sam3_runtime.deploy.overview import describe
from tests.cli.test_main import write_variant
from tests.engine_records import engine_record


def test_info_tells_what_was_asked_for_from_what_engines_run_in(tmp_path: Path) -> None:
    variant = write_variant(tmp_path)
    record = engine_record("decoder", sha256="decoder-50", precision_got={"float32": 1, "unknown": 3})
    record.write(variant / "decoder.engine.json")
    printed = io.StringIO()
    print_variant(Console(file=printed, width=200), describe(variant))
    decoder = next(line for line in printed.getvalue().splitlines() if "decoder_q50" in line)
    assert decoder.split("│")[3].strip() == "fp32"
    assert "\ndecoder runs in float32 25%, 75% not reported by TensorRT 1.0\n" in printed.getvalue()
