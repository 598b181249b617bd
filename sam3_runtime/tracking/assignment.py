"""Pairs rows with columns at the largest total weight; exact, NumPy alone.

Same result as SciPy's ``linear_sum_assignment``, which would be the runtime's largest dependency, for one function.
Most tracks and detections have a single candidate; those pairs are taken first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pairs = tuple[NDArray[np.intp], NDArray[np.intp]]
"""The rows and the columns of pairs, as index arrays of equal length, by ascending row."""


def assign(weights: NDArray[np.floating]) -> Pairs:
    """Return the pairs of the largest total weight; ``weights`` [N, M] is 0 where a pair is not allowed.

    Each row and each column is in one pair at most. The choice among equally good results is deterministic.
    """
    allowed = weights > 0
    # Rows and columns that are each other's only candidate are paired in every optimal result.
    alone = allowed & (allowed.sum(1) == 1)[:, None] & (allowed.sum(0) == 1)
    contested = allowed & ~alone
    pairs = [np.nonzero(alone)]
    rows, columns = np.flatnonzero(contested.any(1)), np.flatnonzero(contested.any(0))
    if rows.size:
        some = weights[np.ix_(rows, columns)].astype(np.float64)
        chosen = _cheapest(-some) if len(rows) <= len(columns) else _cheapest(-some.T)[::-1]
        good = some[chosen] > 0
        pairs.append((rows[chosen[0][good]], columns[chosen[1][good]]))
    row, column = (np.concatenate(part) for part in zip(*pairs, strict=True))
    order = np.argsort(row)
    return row[order], column[order]


def _cheapest(cost: NDArray[np.float64]) -> Pairs:
    """Pair every row of ``cost`` [n, m], n <= m, with a column of its own, at the least total cost.

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
