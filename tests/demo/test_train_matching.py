"""Matching: as good as SciPy's exact assignment, and never one query for two targets."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from scipy.optimize import linear_sum_assignment  # noqa: E402

from demo.train_matching import EPSILON, match_one_to_many, match_one_to_one, targets_of_queries  # noqa: E402

ROWS, TARGETS, QUERIES = 60, 15, 200


def _costs(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "random":
        return rng.random((ROWS, TARGETS, QUERIES)) * 10
    if kind == "all want the same":
        return rng.random((ROWS, 1, QUERIES)) * 5 + rng.random((ROWS, TARGETS, QUERIES)) * 0.5
    places, wanted = rng.random((ROWS, 1, QUERIES, 2)), rng.random((ROWS, TARGETS, 1, 2))
    return 5 * np.abs(places - wanted).sum(-1)


@pytest.mark.parametrize("kind", ["random", "all want the same", "places"])
def test_one_to_one_is_as_cheap_as_can_be(kind: str) -> None:
    cost = _costs(kind)
    valid = np.arange(TARGETS) < np.arange(ROWS)[:, None] % 6
    choice = match_one_to_one(torch.from_numpy(cost).float(), torch.from_numpy(valid)).numpy()
    assert (choice[~valid] == -1).all()
    assert (choice[valid] >= 0).all()
    for row in range(ROWS):
        count = int(valid[row].sum())
        mine = choice[row, :count]
        assert len(set(mine)) == count
        best = cost[row, :count][linear_sum_assignment(cost[row, :count])].sum()
        assert cost[row, np.arange(count), mine].sum() <= best + count * EPSILON + 1e-4


def test_most_of_a_crowd_is_matched_too() -> None:
    cost = torch.from_numpy(_costs("all want the same")).float()
    choice = match_one_to_one(cost, torch.ones(ROWS, TARGETS, dtype=torch.bool))
    assert float((choice >= 0).float().mean()) > 0.95
    for row in choice:
        taken = row[row >= 0].tolist()
        assert len(set(taken)) == len(taken)


def test_equal_bids_have_one_winner() -> None:
    choice = match_one_to_one(torch.ones(2, 3, 5), torch.ones(2, 3, dtype=torch.bool))
    assert choice.shape == (2, 3)
    for row in choice.tolist():
        assert min(row) >= 0
        assert len(set(row)) == 3


def test_targets_of_queries_turns_it_round() -> None:
    choice = torch.tensor([[3, -1, 0], [-1, -1, -1]])
    assert targets_of_queries(choice, 5).tolist() == [[2, -1, -1, 0, -1], [-1] * 5]


def test_one_to_many_gives_each_target_its_cheapest_queries() -> None:
    cost = torch.tensor([[[0.0, 1.0, 2.0, 9.0, 9.0], [9.0, 9.0, 1.0, 1.5, 9.0], [0.0, 0.0, 0.0, 0.0, 0.0]]])
    valid = torch.tensor([[True, True, False]])
    assert match_one_to_many(cost, valid, 3).tolist() == [[0, 0, 1, 1, -1]]
