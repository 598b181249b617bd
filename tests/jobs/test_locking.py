"""A work folder's weights are locked once; other weights are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3_runtime.core.errors import CheckpointError
from sam3_runtime.jobs import locking
from sam3_runtime.jobs.locking import lock_once
from sam3_runtime.records.records import CheckpointLock


class Hub:
    """A family's checkpoint module: what it is asked for, and the weights that there are."""

    def __init__(self) -> None:
        self.digest, self.commit = "a" * 64, "c" * 40
        self.asked: list[tuple[str, str | None]] = []

    def lock(self, location: str, revision: str | None) -> CheckpointLock:
        self.asked.append((location, revision))
        commit = self.commit or None
        return CheckpointLock(checkpoint=location, revision=None, commit=commit, digest=self.digest, dims={})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    monkeypatch.setattr(locking, "exporter", lambda *_: made)
    return made


def test_the_lock_has_the_name_that_was_asked_for_and_the_commit(hub: Hub, tmp_path: Path) -> None:
    made = lock_once(tmp_path / "checkpoint.lock", "facebook/sam3", "main", "/there")
    assert (made.checkpoint, made.revision, made.commit) == ("facebook/sam3", "main", hub.commit)
    assert CheckpointLock.read(tmp_path / "checkpoint.lock").digest == hub.digest
    assert hub.asked == [("/there", "main")]


def test_a_later_build_reads_the_commit_of_the_first(hub: Hub, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.lock"
    lock_once(path, "facebook/sam3", "main", "facebook/sam3")
    before = path.read_bytes()
    hub.commit = "d" * 40
    assert lock_once(path, "facebook/sam3", "main", "facebook/sam3").commit == "c" * 40
    assert hub.asked[1] == ("facebook/sam3", "c" * 40)
    assert path.read_bytes() == before


def test_a_folder_has_no_revision(hub: Hub, tmp_path: Path) -> None:
    hub.commit = ""
    assert lock_once(tmp_path / "checkpoint.lock", "weights", "main", "weights").revision is None


def test_other_weights_are_refused_and_the_lock_stays(hub: Hub, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.lock"
    lock_once(path, "weights", None, "weights")
    before, hub.digest = path.read_bytes(), "b" * 64
    with pytest.raises(CheckpointError, match=r"a{12} then, b{12} now\)\nHint: build them in another folder"):
        lock_once(path, "weights", None, "weights")
    assert path.read_bytes() == before
