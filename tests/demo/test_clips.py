"""Videos for measuring streams."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from demo.clips import write_clips
from sam3_runtime.media.sources import read_video


def test_clips_are_1080p_and_begin_apart(tmp_path: Path) -> None:
    frames = []
    for path in write_clips(tmp_path / "clips", count=2, frames=3):
        with read_video(path) as video:
            shown = list(video)
        assert [frame.shape for frame in shown] == [(1080, 1920, 3)] * 3
        frames.append(shown[0].astype(np.int16))
    assert np.abs(frames[0] - frames[1]).mean() > 5
