"""An engine that is freed between its runs."""

from __future__ import annotations

import numpy as np
import pytest

from sam3_runtime.core.errors import EngineError
from sam3_runtime.engines.running.fake import FakeEngine
from sam3_runtime.engines.running.on_demand import OnDemandEngine
from sam3_runtime.plan.variants import Variant
from tests.fake_variant import fake_record

IDS = np.ones((1, 32), np.int64)
FEEDS = {"input_ids": IDS, "attention_mask": IDS}


@pytest.fixture
def opened() -> list[FakeEngine]:
    """All that were opened."""
    return []


@pytest.fixture
def engine(opened: list[FakeEngine]) -> OnDemandEngine:
    def reopen() -> FakeEngine:
        opened.append(FakeEngine(fake_record("text-encoder", Variant((4, 20, 112)))))
        return opened[-1]

    return OnDemandEngine(reopen(), reopen)


def test_it_is_opened_again_when_it_runs(engine: OnDemandEngine, opened: list[FakeEngine]) -> None:
    first = engine.infer(FEEDS)
    engine.release()
    engine.release()
    assert (engine.loaded, len(opened), opened[0].closed) == (False, 1, True)
    again = engine.infer(FEEDS)
    assert (engine.loaded, len(opened)) == (True, 2)
    assert np.array_equal(first["text_features"], again["text_features"])
    engine.infer(FEEDS)
    assert len(opened) == 2


def test_wrong_feeds_open_nothing(engine: OnDemandEngine, opened: list[FakeEngine]) -> None:
    engine.release()
    with pytest.raises(EngineError, match="lacks attention_mask"):
        engine.infer({"input_ids": IDS})
    assert len(opened) == 1


def test_closed_it_stays_closed(engine: OnDemandEngine, opened: list[FakeEngine]) -> None:
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="the text-encoder is closed\nHint: open the variant again"):
        engine.infer(FEEDS)
    assert [one.closed for one in opened] == [True]
