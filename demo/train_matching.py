"""Matches queries to targets: one-to-one for the model's own queries, one-to-many for those of training.

There are thousands of small assignment problems per step (each row at each decoder layer), so both methods are a fixed
number of tensor operations over all of them, on the device of the costs, without synchronisation with the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 40
"""Auction rounds. 1 to 4 targets need about 10, 15 that prefer the same queries 40; a target may end without one."""
EPSILON = 1e-2
"""Least increase of a bid: the total cost exceeds the optimum by at most this much per target."""


@torch.no_grad()
def match_one_to_one(cost: Tensor, valid: Tensor) -> Tensor:
    """Match by auction (Bertsekas); return the query of each target, int64 [M, T], −1 for none.

    ``cost`` is float32 [M, T, Q] with Q > T, ``valid`` bool [M, T]. Only the T cheapest queries of a target matter:
    one of these is always free, so an optimum contains no other.
    """
    rows, targets, queries = cost.shape
    price, candidate = cost.topk(min(targets + 1, queries), dim=2, largest=False)
    worth, columns = -price, candidate.flatten(1)
    prices = cost.new_zeros(rows, queries)
    nothing = cost.new_full((rows, queries), -torch.inf)
    every = torch.arange(queries, device=cost.device).expand(rows, -1)
    number = torch.arange(targets, device=cost.device).expand(rows, -1)
    unsold = candidate.new_full((rows, queries), targets)
    unmatched = candidate.new_full((rows, targets + 1), -1)  # the last column takes the queries without an owner
    owner, choice = unsold, unmatched[:, :-1]
    for _ in range(ROUNDS):
        value = worth - prices.gather(1, columns).view_as(worth)
        best = value.argmax(2, keepdim=True)
        second = value.scatter_(2, best, -torch.inf).amax(2)
        wanted = candidate.gather(2, best)[..., 0]
        # A bid raises the price until the second best query is as good, plus EPSILON.
        bids = valid & (choice < 0)
        bid = (worth.gather(2, best)[..., 0] - second + EPSILON).masked_fill_(~bids, -torch.inf)
        highest = nothing.scatter_reduce(1, wanted, bid, "amax")
        lost = (bid < highest.gather(1, wanted)) | ~bids
        winner = unsold.scatter_reduce(1, wanted, number.masked_fill(lost, targets), "amin")  # the first of equal bids
        sold = winner < targets
        prices = torch.where(sold, highest, prices)
        owner = torch.where(sold, winner, owner)
        choice = unmatched.scatter(1, owner, every)[:, :-1]
    return choice


@torch.no_grad()
def targets_of_queries(choice: Tensor, queries: int) -> Tensor:
    """Turn the query of each target [M, T] into the target of each query, int64 [M, Q], −1 for none."""
    rows, targets = choice.shape
    owner = choice.new_full((rows, queries + 1), -1)
    index = torch.arange(targets, device=choice.device).expand(rows, -1)
    return owner.scatter(1, torch.where(choice < 0, queries, choice), index)[:, :-1]


@torch.no_grad()
def match_one_to_many(cost: Tensor, valid: Tensor, each: int) -> Tensor:
    """Return the target of each query, int64 [M, Q], −1 for none: every target takes its ``each`` cheapest queries.

    A query that several targets take goes to the one with the lowest cost. ``cost`` [M, T, Q], ``valid`` [M, T].
    """
    cost = cost.masked_fill(~valid.unsqueeze(2), torch.inf)
    cheapest = cost.topk(each, dim=2, largest=False).indices
    offered = torch.full_like(cost, torch.inf).scatter(2, cheapest, cost.gather(2, cheapest))
    least, target = offered.min(dim=1)
    return torch.where(least < torch.inf, target, -1)
