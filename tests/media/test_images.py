"""Batches with and without the sources of their images."""

from __future__ import annotations

from sam3_runtime.media.images import SourceImage, images_of
from tests.projects import photo


def test_a_model_without_a_state_gets_the_images_alone() -> None:
    asked: list[bool] = []
    first, second = photo(1), photo(2)

    def take(wait: bool) -> list[SourceImage]:
        asked.append(wait)
        return [SourceImage(first, 0, 7, 0.5), SourceImage(second, 1, 0, 0.0)] if wait else []

    images = images_of(take)
    one, other = images(True)
    assert one is first
    assert other is second
    assert images(False) == []
    assert asked == [True, False]
