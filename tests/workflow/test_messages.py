"""A mistake in ``variants.yaml`` or in a target is one message: nothing of our code and of Snakemake's behind it."""

from __future__ import annotations

import pytest

from tests.workflow.conftest import WorkFolder

WRONG_NUMBER = {"variants": [{"resolution": [224, "23a"]}]}


def message(output: str) -> str:
    """What stands behind ``Error:``, to the end; nothing before it may be one."""
    before, _, after = output.partition("\nError: ")
    assert "rror" not in before.removeprefix("Using workflow specific profile")
    return after


@pytest.mark.parametrize("arguments", [["--dry-run"], ["--lint"]])
def test_a_wrong_file_is_one_message(fresh: WorkFolder, arguments: list[str]) -> None:
    fresh.write(**WRONG_NUMBER)
    run = fresh.snakemake(*arguments)
    assert run.returncode == 1
    (line,) = message(run.stdout).splitlines()
    assert line.endswith("variants[0].resolution[1]: '23a': input should be a valid integer")


@pytest.mark.parametrize(
    ("target", "said", "lines"),
    [
        ("engines/b2_q50_r238/decoder.engine", "the variant b2_q50_r238 is not listed in variants.yaml", 3),
        ("engines/b2_q50_r225/verify.json", "resolution 225 is not a multiple of the patch size 14", 2),
        ("accuracy/b2_q50_r224.json", "variants.yaml names no data set", 2),
    ],
)
def test_a_target_that_there_is_not_is_one_message(fresh: WorkFolder, target: str, said: str, lines: int) -> None:
    run = fresh.snakemake(target)
    assert run.returncode == 1
    shown = message(run.stdout).splitlines()
    assert said in shown[0]
    assert len(shown) == lines, shown
    assert not list((fresh.path / ".snakemake/locks").iterdir())
