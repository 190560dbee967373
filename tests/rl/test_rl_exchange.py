from __future__ import annotations

import threading

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rl_tiny import Player, TinyDenoiser, problems

from igpo_rl.exchange import Exchange, moves
from igpo_rl.seeds import derive

WIDTH = 6


def on_ranks(count: int, work) -> list:
    """`work(rank, gather)` on threads that meet in every `gather` of an object, as processes do."""
    barrier, slots, results = threading.Barrier(count), [None] * count, [None] * count

    def run(rank: int) -> None:
        def gather(value):
            slots[rank] = value
            barrier.wait(10)
            seen = list(slots)
            barrier.wait(10)
            return seen

        results[rank] = work(rank, gather)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


@given(st.lists(st.integers(0, 40), min_size=1, max_size=9))
def test_moves_leave_equal_shares_and_are_the_fewest_rows(counts):
    after = list(counts)
    sent: dict[int, list[int]] = {}
    for move in moves(counts):
        assert move.source != move.target
        after[move.source] -= move.last - move.first
        after[move.target] += move.last - move.first
        sent.setdefault(move.source, []).extend(range(move.first, move.last))
    assert max(after) - min(after) <= 1
    assert sum(after) == sum(counts)
    for source, rows in sent.items():  # its last ones, each once
        assert sorted(rows) == list(range(counts[source] - len(rows), counts[source]))
    share, rest = divmod(sum(counts), len(counts))
    above = sorted((max(0, count - share) for count in counts), reverse=True)
    assert sum(map(len, sent.values())) == sum(above) - sum(one > 0 for one in above[:rest])


def share_of(rank: int, count: int, overlaid: bool):
    """What one rank has to play: problems with prompts of unequal length, seeds, and hints."""
    rows = [problems(12)[(rank * 5 + row) % 12] for row in range(count)]
    seeds = torch.tensor([derive("seed", rank, row) for row in range(count)], dtype=torch.long)
    overlay = torch.full((count, WIDTH), -1)
    for row, problem in enumerate(rows):
        overlay[row, row % WIDTH] = problem.trace[row % WIDTH]
    return rows, overlay if overlaid else None, seeds


@settings(max_examples=15)
@given(st.lists(st.integers(0, 7), min_size=2, max_size=4), st.booleans())
def test_every_rank_gets_what_it_would_have_played_itself(counts, overlaid):
    policy = TinyDenoiser().double()

    def judge(problem, text):
        return text[0] == problem.key[0]

    def work(rank, gather):
        player = Player(policy, WIDTH, judge)
        alone = player(*share_of(rank, counts[rank], overlaid))
        shared = Exchange(gather, rank)(player)(*share_of(rank, counts[rank], overlaid))
        return alone, shared, player.calls[1][0]

    found = on_ranks(len(counts), work)
    played = [rows for _, _, rows in found]
    assert max(played) - min(played) <= 1
    for alone, shared, _ in found:
        assert alone.columns().keys() == shared.columns().keys()
        for name, column in alone.columns().items():
            other = shared.columns()[name]
            if name == "prompt":  # padding is never read, and 0 where rows of several plays are put together
                column, other = (each.prompt.where(each.prompt_valid, 0) for each in (alone, shared))
            assert torch.equal(column, other) if isinstance(column, torch.Tensor) else column == other


def test_without_an_exchange_one_rank_plays_everything():
    """The faulty variant: the others wait."""

    def work(rank, gather):
        player = Player(TinyDenoiser(), WIDTH, lambda problem, text: False)
        player(*share_of(rank, [8, 0][rank], True))
        Exchange(gather, rank)(player)(*share_of(rank, [8, 0][rank], True))
        return [calls[0] for calls in player.calls]

    assert on_ranks(2, work) == [[8, 4], [0, 4]]
