from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from sam3_runtime.tracking.assignment import assign


def best_by_trying_all(weights: np.ndarray) -> float:
    """The most that pairs can weigh in total."""
    rows, columns = weights.shape
    if rows > columns:
        return best_by_trying_all(weights.T)
    return max(
        sum(weights[row, column] for row, column in enumerate(order)) for order in permutations(range(columns), rows)
    )


def check(weights: np.ndarray) -> float:
    """Pairs that may be, each row and column once; their total weight."""
    rows, columns = assign(weights)
    assert len(set(rows.tolist())) == len(set(columns.tolist())) == len(rows)
    assert rows.tolist() == sorted(rows.tolist())
    assert (weights[rows, columns] > 0).all()
    return float(weights[rows, columns].sum())


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (5, 2), (4, 4), (6, 5), (6, 6)])
@pytest.mark.parametrize("share", [0.2, 0.6, 1.0])
def test_is_as_good_as_trying_all(shape: tuple[int, int], share: float) -> None:
    random = np.random.default_rng(shape[0] * 10 + shape[1])
    for _ in range(30):
        weights = random.random(shape) * (random.random(shape) < share)
        assert check(weights) == pytest.approx(best_by_trying_all(weights))


@pytest.mark.parametrize("shape", [(60, 60), (80, 30), (30, 80)])
@pytest.mark.parametrize("share", [0.05, 1.0])
def test_equals_scipy_on_many(shape: tuple[int, int], share: float) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    random = np.random.default_rng(3)
    weights = random.random(shape) * (random.random(shape) < share)
    rows, columns = optimize.linear_sum_assignment(weights, maximize=True)
    assert check(weights) == pytest.approx(weights[rows, columns].sum())


def test_takes_two_fair_pairs_over_the_single_best() -> None:
    rows, columns = assign(np.array([[0.9, 0.8], [0.7, 0.0]]))
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [1, 0])


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (2, 3)])
def test_nothing_to_pair(shape: tuple[int, int]) -> None:
    rows, columns = assign(np.zeros(shape))
    assert len(rows) == len(columns) == 0


def test_ties_are_always_broken_alike() -> None:
    weights = np.full((5, 5), 0.5)
    first = assign(weights)
    assert check(weights) == 2.5
    assert all(np.array_equal(one, other) for one, other in zip(first, assign(weights), strict=True))
