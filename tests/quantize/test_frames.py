from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam3_runtime.core.errors import CalibrationError
from sam3_runtime.quantize.frames import Frames, batches, prepared, with_progress
from tests.videos import with_edits, write_clip

PHOTOGRAPH = "package:skimage/data/coffee.png"


def numbers(count: int) -> list[np.ndarray]:
    return [np.full((1, 2), number, np.float32) for number in range(count)]


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (4, 2, [[0, 1], [2, 3]]),
        (5, 2, [[0, 1], [2, 3], [4, 2]]),
        (7, 4, [[0, 1, 2, 3], [4, 5, 6, 0]]),
        (2, 5, [[0, 1, 0, 1, 0]]),
        (0, 2, []),
    ],
)
def test_batches_have_one_size_and_every_frame(count: int, size: int, expected: list[list[int]]) -> None:
    assert [batch[:, 0].tolist() for batch in batches(numbers(count), size)] == expected


@pytest.mark.parametrize("threads", [0, 1, 3, 50])
def test_frames_prepared_ahead_keep_their_order(threads: int) -> None:
    images = [np.full((1, 1, 3), number, np.uint8) for number in range(20)]
    found = prepared(images, lambda image: image[0].astype(np.float32), threads)
    assert [int(one[0, 0]) for one in found] == list(range(20))


def test_frames_are_prepared_while_the_caller_works() -> None:
    third_was_prepared = threading.Event()

    def prepare(image: np.ndarray) -> np.ndarray:
        if image[0, 0, 0] == 2:
            third_was_prepared.set()
        return image.astype(np.float32)

    found = prepared([np.full((1, 1, 3), number, np.uint8) for number in range(5)], prepare, 2)
    next(found)
    assert third_was_prepared.wait(timeout=30)
    assert len(list(found)) == 4


def test_what_fails_while_preparing_is_raised_in_its_turn() -> None:
    def prepare(image: np.ndarray) -> np.ndarray:
        if image[0, 0, 0] == 1:
            raise ValueError("the second")
        return image.astype(np.float32)

    found = prepared([np.full((1, 1, 3), number, np.uint8) for number in range(3)], prepare, 2)
    next(found)
    with pytest.raises(ValueError, match="the second"):
        next(found)


def test_a_shortage_is_logged_with_both_numbers() -> None:
    logged: list[str] = []
    frames = Frames([PHOTOGRAPH], 5, logged.append)
    assert frames.expected() == 1
    assert len(list(frames)) == 1
    assert logged == ["calibration.source has 1 of the 5 frames asked for: all of them are used"]
    assert len(list(Frames([PHOTOGRAPH], 1, logged.append))) == len(logged) == 1


def test_the_remaining_time_is_logged_once_after_the_first_batch(capsys: pytest.CaptureFixture[str]) -> None:
    logged: list[str] = []
    found = with_progress(batches(numbers(6), 2), 6, "calibration", logged.append)
    next(found)
    assert logged == []
    assert len(list(found)) == 2
    assert logged == ["calibration: about 0 s more (2 of 6 frames done)"]
    assert capsys.readouterr().out == ""


def test_nothing_is_logged_about_a_single_batch() -> None:
    logged: list[str] = []
    assert len(list(with_progress(batches(numbers(2), 2), 2, "calibration", logged.append))) == 1
    assert logged == []


def test_files_beside_images_fail_no_calibration_and_are_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    for name in ("._a.png", "b.HEIC"):
        (tmp_path / name).write_bytes(b"none")
    frames = Frames([str(tmp_path)], 3)
    assert frames.expected() == len(list(frames)) == 1
    assert [one.split("\n")[0] for one in caplog.messages] == [f"{tmp_path}: 2 files left out: 1 .heic, 1 hidden"]


def test_a_video_with_an_edit_list_is_a_source(tmp_path: Path) -> None:
    path = with_edits(write_clip(tmp_path / "clip.mp4"), (1600, 4))
    frames = Frames([str(path)], 50)
    assert frames.expected() == len(list(frames)) == 16


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    whole = cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    (tmp_path / "a.png").write_bytes(whole[:40])
    with pytest.raises(CalibrationError, match=r"calibration\.source: .*a\.png"):
        list(Frames([str(tmp_path)], 3))
