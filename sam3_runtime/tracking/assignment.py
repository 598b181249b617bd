"""Pairs rows with columns so that what the pairs are worth is the most that it can be. Exact, small, numpy alone.

SciPy's ``linear_sum_assignment`` does this too; it would be the runtime's largest dependency, for this one function.
Tracks and detections make it easy: most of them have one candidate, and those pairs are taken out first.
Knows numbers, and neither tracks nor images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pairs = tuple[NDArray[np.intp], NDArray[np.intp]]
"""The rows and the columns of pairs, as indices of equal length, by ascending row."""


def assign(worth: NDArray[np.floating]) -> Pairs:
    """The pairs of most worth in total; ``worth`` [N, M] is 0 where a row and a column may not be paired.

    Each row and each column is in one pair at most. Of equally good answers it is always the same one.
    """
    allowed = worth > 0
    # Who are each other's only candidate are paired in every best answer.
    alone = allowed & (allowed.sum(1) == 1)[:, None] & (allowed.sum(0) == 1)
    contested = allowed & ~alone
    pairs = [np.nonzero(alone)]
    rows, columns = np.flatnonzero(contested.any(1)), np.flatnonzero(contested.any(0))
    if rows.size:
        some = worth[np.ix_(rows, columns)].astype(np.float64)
        chosen = _cheapest(-some) if len(rows) <= len(columns) else _cheapest(-some.T)[::-1]
        good = some[chosen] > 0
        pairs.append((rows[chosen[0][good]], columns[chosen[1][good]]))
    row, column = (np.concatenate(part) for part in zip(*pairs, strict=True))
    order = np.argsort(row)
    return row[order], column[order]


def _cheapest(cost: NDArray[np.float64]) -> Pairs:
    """Every row of ``cost`` [n, m], n at most m, with a column of its own, at the least total cost.

    The Hungarian method by shortest augmenting paths: rows are added one by one, and prices on rows and columns keep
    every reduced cost at 0 or above, with 0 along the pairs made so far. Time n · n · m at worst.
    """
    count, width = cost.shape
    row_price, column_price = np.zeros(count), np.zeros(width)
    owner = np.full(width, -1)  # the row of each column
    for start in range(count):
        distance = np.full(width, np.inf)  # of the shortest path from the row to each column
        before = np.full(width, -1)  # the column before each on that path; -1 is the row itself
        open_ = np.ones(width, np.bool_)
        row, column, reached = start, -1, 0.0
        while row >= 0:
            step = reached + cost[row] - row_price[row] - column_price
            nearer = open_ & (step < distance)
            distance[nearer], before[nearer] = step[nearer], column
            column = int(np.argmin(np.where(open_, distance, np.inf)))
            reached = float(distance[column])
            open_[column] = False
            row = int(owner[column])
        done = ~open_
        done[column] = False
        row_price[start] += reached
        row_price[owner[done]] += reached - distance[done]
        column_price[done] -= reached - distance[done]
        while column >= 0:  # every row of the path moves on to the next column
            previous = int(before[column])
            owner[column] = owner[previous] if previous >= 0 else start
            column = previous
    columns = np.flatnonzero(owner >= 0)
    return owner[columns], columns
