from __future__ import annotations

import threading

import pytest
import torch

from igpo_rl.ranks import gather_values, in_order


def on_ranks(count: int, work) -> list:
    """`work(rank, gather)` on threads that meet in every `gather`, as processes do."""
    barrier, slots, results = threading.Barrier(count), [None] * count, [None] * count

    def run(rank: int) -> None:
        def gather(values):
            slots[rank] = values
            barrier.wait(10)
            table = torch.stack(slots)
            barrier.wait(10)
            return table

        results[rank] = work(rank, gather)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


VALUES = [["a", [True, False]], ["b\u00e9\n", [0.1, 1e-300]], [], ["c", {"d": None}], ["e" * 300, [1]]]


def test_values_of_unequal_length_reach_every_rank():
    shares = [VALUES, [], VALUES[1:2]]
    for seen in on_ranks(3, lambda rank, gather: gather_values(shares[rank], gather)):
        assert seen == shares


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_order_does_not_depend_on_the_number_of_ranks(ranks):
    """Value i of all is the (i // ranks)-th of rank i % ranks, as problems are shared out."""
    everything = list(range(9))

    def work(rank, gather):
        return in_order(list(enumerate(everything[rank::ranks])), gather)

    assert on_ranks(ranks, work) == [everything] * ranks


def test_rank_by_rank_the_order_would_change():
    """The faulty variant, and why it matters: a window over the last outcomes would hold others."""
    everything = list(range(9))
    shares = [everything[rank::2] for rank in range(2)]
    (table, _) = on_ranks(2, lambda rank, gather: gather_values(shares[rank], gather))
    assert [value for row in table for value in row] != everything
