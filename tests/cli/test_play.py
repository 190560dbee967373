"""Micro-batches of a play: the same rows however they are cut, and verdicts that are found while others are sampled."""

import threading
import time

import pytest
import torch
from attrs import evolve, frozen

from igpo_cli.play import Player
from igpo_cli.problems import ProblemSet
from igpo_cli.settings import Prompt
from igpo_data import Lists, Verdict
from igpo_rl import derive
from igpo_rl.memory import Room
from igpo_sampling import Tiny
from igpo_sampling.samplers import LLaDASampler


@frozen
class Slow:
    """Takes as long as a hard comparison, without using the processor."""

    seconds: float = 0.0

    def __call__(self, completion, task):
        time.sleep(self.seconds)
        return Verdict(reward=float(len(completion)), correct=len(completion) % 2 == 0, note=task.key[:3])


@pytest.fixture(scope="module")
def player():
    tasks = Lists(train_problems=8)("train")
    loaded = Tiny(width=32, layers=1, heads=2)(vocabulary=Lists().vocabulary(), dtype=torch.float64, seed=0)
    problems = ProblemSet.encode(tasks, Prompt(), loaded.tokenizer)
    sampler = LLaDASampler(block=12, steps=4, temperature=1.0)
    made = Player(loaded=loaded, sampler=sampler, verifier=Slow(), tasks=problems.tasks, width=12)
    return made, problems.problems


def play(player, problems, **options):
    seeds = torch.tensor([derive(0, problem.key, row) for row, problem in enumerate(problems)], dtype=torch.long)
    overlay = torch.full((len(problems), player.width), -1)
    overlay[::2, 3] = 5
    return evolve(player, **options)(problems, overlay, seeds)


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_however_a_play_is_cut_its_rows_are_the_same(player, rows):
    player, problems = player
    whole, cut = play(player, problems), play(player, problems, room=Room(rows))
    assert whole.columns().keys() == cut.columns().keys()
    for name, column in whole.columns().items():
        other = cut.columns()[name]
        if name == "prompt":
            column, other = (each.prompt.where(each.prompt_valid, 0) for each in (whole, cut))
        if isinstance(column, tuple):
            assert column == other
        elif column.is_floating_point():
            assert torch.allclose(column, other, atol=1e-6, equal_nan=True)
        else:
            assert torch.equal(column, other)


def test_a_play_without_rows(player):
    assert len(play(player[0], player[1][:0], room=Room(3))) == 0


def test_verdicts_are_found_while_the_next_rows_are_sampled(player):
    """Four parts of two rows: all but the last part's verdicts cost no time of their own."""
    player, problems = player
    spoken: list[str] = []

    @frozen
    class Spy:
        def __call__(self, completion, task):
            spoken.append(threading.current_thread().name)
            time.sleep(0.1)
            return Verdict(reward=0.0, correct=False)

    @frozen
    class Steady:
        """A sampler whose forwards take as long as verdicts do."""

        inner: object

        def __call__(self, *inputs, **named):
            time.sleep(0.2)
            return self.inner(*inputs, **named)

    times: dict[str, float] = {}
    play(player, problems, room=Room(2), verifier=Spy(), sampler=Steady(player.sampler), times=times)
    assert len(spoken) == 8
    assert threading.main_thread().name not in spoken
    assert times["sample"] > 0.8
    assert times["verify"] < 0.5  # of 0.8 seconds in all


def test_what_a_verifier_raises_arrives(player):
    class Broken:
        def __call__(self, completion, task):
            raise RuntimeError("no verdict")

    with pytest.raises(RuntimeError, match="no verdict"):
        play(player[0], player[1], room=Room(3), verifier=Broken())
