"""The backend for tests: opened without its file, counted and closed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sam3_runtime.core.errors import EngineError
from sam3_runtime.engines.running.fake import open_engine
from sam3_runtime.plan.variants import Variant
from tests.fake_variant import fake_record

RECORD = fake_record("vision-encoder", Variant((4, 20, 112)))


def test_runs_are_counted_and_the_file_is_not_read() -> None:
    engine = open_engine(Path("there is none"), RECORD)
    for count in (1, 4):
        assert len(engine.infer({"images": np.zeros((count, 3, 112, 112), np.float32)})["fpn_feat_0"]) == count
    assert (engine.calls, engine.closed) == (2, False)
    engine.close()
    assert engine.closed


def test_what_does_not_fit_is_refused_and_not_counted() -> None:
    engine = open_engine(Path("there is none"), RECORD)
    with pytest.raises(EngineError, match="a batch of 5, and an engine of batch 4 takes 4 at most"):
        engine.infer({"images": np.zeros((5, 3, 112, 112), np.float32)})
    assert engine.calls == 0
