"""The reader of the reference file."""

from __future__ import annotations


def test_the_reader_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, sam3_runtime.families.sam3.reference; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
