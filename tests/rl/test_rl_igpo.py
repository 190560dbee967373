from __future__ import annotations

import copy
from pkgutil import resolve_name

import pytest
import torch
from attrs import evolve, frozen
from rl_tiny import EOS, LETTERS, MASK, Player, TinyDenoiser, decode, encode, endless, problem, problems

from igpo_rl import plugin
from igpo_rl.chunkers import RandomLength
from igpo_rl.estimators import ELBO, MeanField, RandomMask, Trajectory
from igpo_rl.filters import AdaptiveFilter, DropHints, KeepAll, Threshold, TopEntropy
from igpo_rl.igpo import IGPO
from igpo_rl.injections import Full, NoInjection, Resample, UniformChunks
from igpo_rl.losses import DAPO, GRPO, GSPO, row_mean
from igpo_rl.records import Problem, Rollouts
from igpo_rl.scores import token_scores
from igpo_rl.testing import global_generators_untouched

WIDTH = 12
SHORT = RandomLength(low=2, high=3)


def matches(one: Problem, text: str) -> int:
    return sum(a == b for a, b in zip(decode(one.trace), text, strict=False))


def judge(one: Problem, text: str) -> bool:
    """Rare at random, common with hints."""
    return matches(one, text) >= 6


def algorithm(**options) -> IGPO:
    return IGPO(**{"group": 4, "prompts": 4, "updates": 2, "score_rows": 64, "chunker": SHORT, **options})


def collect(rl: IGPO, *, policy=None, step: int = 0, verdict=judge, tasks=None, end_share: float = 0.0):
    player = Player(policy or TinyDenoiser(), WIDTH, verdict, end_share=end_share)
    batch = rl.collect(player, endless(tasks or problems()), 0.0, step)
    return batch, player


def learn(rl: IGPO, batch, *, policy=None, reference=None, move=None):
    """Gradients (a list of tensors for each inner update) and the losses."""
    policy = (policy or TinyDenoiser()).double()
    gradients, losses = [], []
    for loss in rl.learn(policy, reference, batch, 0, mask_id=MASK):
        loss.value.backward()
        losses.append(loss)
        if loss.last:
            gradients.append([parameter.grad.clone() for parameter in policy.parameters()])
            policy.zero_grad()
            if move is not None:
                move(policy)
    return gradients, losses


def nudge(policy) -> None:
    with torch.no_grad():
        for index, parameter in enumerate(policy.parameters()):
            parameter.add_(0.05 * torch.sin(torch.arange(parameter.numel()) + index).view_as(parameter))


def close(one, other, atol=1e-12) -> bool:
    return all(torch.allclose(a, b, atol=atol) for a, b in zip(one, other, strict=True))


def size(gradient) -> float:
    return max(float(one.abs().max()) for one in gradient)


# collect --------------------------------------------------------------------------------------------------------------


def test_hints_open_stuck_groups():
    batch, player = collect(algorithm(seed=3))
    metrics = batch.metrics
    assert metrics["stuck/before"] > metrics["stuck/after"]
    assert metrics["stuck/rescued"] == pytest.approx(1 - metrics["stuck/after"] / metrics["stuck/before"])
    assert metrics["hint/answer_leak"] == 0
    assert metrics["hint/rows"] == float(batch.hinted.float().mean()) > 0
    assert batch.correct[batch.hinted].all()
    assert (batch.given.any(1) == batch.hinted).all()
    assert [calls[0] for calls in player.calls] == [16, int(4 * 4 * metrics["stuck/before"])]
    assert batch.advantage.view(-1, 4).sum(1).abs().max() < 1e-6
    assert metrics["reward/spliced"] > metrics["reward/mean"]


def test_rescued_are_the_stuck_groups_that_have_a_correct_row_in_the_end():
    shares = []
    for seed in range(6):
        batch, _ = collect(algorithm(seed=seed))
        stuck, right = batch.stuck.view(4, 4)[:, 0], batch.correct.view(4, 4).any(1)
        assert batch.metrics["stuck/rescued"] == pytest.approx(float(right[stuck].double().mean()))
        shares.append(batch.metrics["stuck/rescued"])
    assert 0 < min(shares) < 1


@pytest.mark.parametrize("seed", range(3))
def test_a_group_with_a_correct_row_is_bit_identical_to_plain_grpo(seed):
    ours, _ = collect(algorithm(seed=seed))
    plain, _ = collect(algorithm(seed=seed, injection=NoInjection()))
    free = ~ours.stuck
    assert free.any()
    for name, column in plain.columns().items():
        other = getattr(ours, name)
        if isinstance(column, torch.Tensor):
            assert torch.equal(other[free], column[free]), name
    kept = ours.stuck & ~ours.hinted  # and originals that stay in a stuck group are the on-policy ones
    assert torch.equal(ours.completion[kept], plain.completion[kept])


def test_without_a_stuck_group_the_gradients_are_bit_identical_to_plain_grpo():
    easy = lambda one, text: text.count("a") % 2 == 0  # noqa: E731
    batches = [collect(algorithm(seed=5, injection=one), verdict=easy)[0] for one in (UniformChunks(), NoInjection())]
    assert not batches[0].stuck.any()
    (ours, _), (plain, _) = (learn(algorithm(), batch, reference=TinyDenoiser(seed=1).double()) for batch in batches)
    for one, other in zip(ours, plain, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        assert size(one) > 1e-3


def test_the_first_correct_inpainted_rows_replace_the_last_originals():
    """Rows are judged by their place in the second call: 1, 2 and 3 are correct, two may enter."""
    player = Player(TinyDenoiser(), WIDTH, lambda one, text: False)

    def play(tasks, overlay, seeds):
        rollouts = player(tasks, overlay, seeds)
        if overlay is None:
            return rollouts
        play.second = rollouts
        correct = torch.tensor([False, True, True, True] * (len(tasks) // 4))
        return evolve(rollouts, correct=correct, reward=correct.float())

    batch = algorithm().collect(play, endless(problems()), 0.0, 0)
    for group in range(4):
        assert batch.correct[group * 4 : group * 4 + 4].tolist() == [False, False, True, True]
        assert torch.equal(
            batch.completion[group * 4 + 2 : group * 4 + 4], play.second.completion[group * 4 + 1 : group * 4 + 3]
        )


def test_a_group_with_an_unverifiable_row_never_triggers_hints():
    player = Player(TinyDenoiser(), WIDTH, lambda one, text: False)

    def play(tasks, overlay, seeds):
        rollouts = player(tasks, overlay, seeds)
        known = rollouts.verifiable.clone()
        if overlay is None:
            known[5] = False
        return evolve(rollouts, verifiable=known)

    batch = algorithm().collect(play, endless(problems()), 0.0, 0)
    assert batch.stuck.view(4, 4).any(1).tolist() == [True, False, True, True]
    assert player.calls[1][0] == 12


@pytest.mark.parametrize(
    ("injection", "verdict", "rows"),
    [
        (UniformChunks(), lambda one, text: False, [16, 16]),
        (UniformChunks(), lambda one, text: True, [16]),  # nothing is stuck
        (Resample(), lambda one, text: False, [16, 16]),
        (NoInjection(), lambda one, text: False, [16]),
    ],
)
def test_play_is_called_twice_unless_no_second_rollout_is_wanted(injection, verdict, rows):
    _, player = collect(algorithm(injection=injection), verdict=verdict)
    assert [calls[0] for calls in player.calls] == rows


def test_a_rank_without_stuck_groups_plays_along_with_the_others():
    def two_ranks(values):
        return torch.stack([values, torch.ones_like(values)])  # the other rank has one stuck group that wants hints

    player = Player(TinyDenoiser(), WIDTH, lambda one, text: True)
    algorithm(prompts=8).collect(player, endless(problems()), 0.0, 0, gather=two_ranks)
    assert [calls[0] for calls in player.calls] == [16, 0]
    player = Player(TinyDenoiser(), WIDTH, lambda one, text: False)
    bare = [problem("a"), problem("b"), problem("c"), problem("d")]  # no traces: the injection declines them all
    algorithm(prompts=8).collect(player, endless(bare), 0.0, 0, gather=two_ranks)
    assert [calls[0] for calls in player.calls] == [16, 0]


def test_a_problem_that_comes_twice_in_a_phase_is_sampled_anew():
    """Fewer problems than groups: copies of a group would cost as much and teach nothing more."""
    never = lambda one, text: False  # noqa: E731
    batch, player = collect(algorithm(), tasks=problems()[:2], verdict=never)
    assert len(set(player.calls[0][2].tolist() + player.calls[1][2].tolist())) == 32
    first, again = batch.completion[:4], batch.completion[8:12]
    assert batch.keys[0] == batch.keys[8]
    assert not torch.equal(first, again)
    overlay = player.calls[1][1]
    assert not torch.equal(overlay[:4], overlay[8:12])
    alone, _ = collect(algorithm(prompts=2), tasks=problems()[:2], verdict=never)
    assert torch.equal(alone.completion, batch.completion[:8])  # the first time as ever
    refilled = Player(TinyDenoiser(), WIDTH, lambda one, text: True)
    algorithm(refills=1).collect(refilled, endless(problems()), 0.0, 0)
    assert len(set(torch.cat([calls[2] for calls in refilled.calls]).tolist())) == 32


def test_a_player_may_leave_out_what_it_does_not_record():
    """Given tokens, orders, confidences, counts of forwards, group numbers: none of them is needed for plain GRPO."""
    player = Player(TinyDenoiser(), WIDTH, judge)
    names = ("prompt", "prompt_valid", "completion", "valid", "reward", "correct")

    def play(tasks, overlay, seeds):
        whole = player(tasks, overlay, seeds)
        return Rollouts(**{name: getattr(whole, name) for name in names})

    rl = algorithm(injection=NoInjection())
    bare, full = rl.collect(play, endless(problems()), 0.0, 0), rl.collect(player, endless(problems()), 0.0, 0)
    assert "sample/forwards" not in bare.metrics
    batch = play([one for one in problems() for _ in range(4)], None, torch.arange(16))
    assert batch.group.tolist() == [row // 4 for row in range(16)]  # runs of equal prompts
    assert batch.take(torch.arange(0)).group.tolist() == []
    assert Rollouts(**{name: getattr(batch, name)[:0] for name in names}).group.tolist() == []
    for one, other in zip(learn(rl, bare)[0], learn(rl, full)[0], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    with pytest.raises(ValueError, match="replays `order`"):
        learn(algorithm(estimator=Trajectory()), bare)
    with pytest.raises(ValueError, match="rollouts have 16 completions, but 15 rows of `reward`"):
        evolve(full, reward=full.reward[:15])
    with pytest.raises(ValueError, match=r"`correct` of rollouts is torch.float32"):
        evolve(full, correct=full.reward)


def test_seeds_differ_by_step_sample_and_purpose_and_not_by_the_order_of_problems():
    tasks = problems()
    seen = set()
    for step in range(2):
        player = Player(TinyDenoiser(), WIDTH, lambda one, text: False)
        algorithm().collect(player, endless(tasks), 0.0, step)
        for _, _, seeds in player.calls:
            seen |= set(seeds.tolist())
    assert len(seen) == 2 * 2 * 16
    straight, _ = collect(algorithm(), tasks=tasks)
    turned, _ = collect(algorithm(), tasks=tasks[::-1])
    order = torch.arange(16).view(4, 4).flip(0).flatten()
    for name in ("completion", "given", "reward", "advantage", "hinted"):
        assert torch.equal(getattr(turned, name), getattr(straight, name)[order]), name


def test_ids_are_kept_between_rollout_and_training():
    """Trap 13: decoding and encoding again merges tokens, so that recorded positions no longer line up."""
    batch, player = collect(algorithm(injection=NoInjection()), end_share=0.3)
    replayed = Player(TinyDenoiser(), WIDTH, judge, end_share=0.3)
    tasks = [one for one in problems() for _ in range(4)]
    assert torch.equal(batch.completion, replayed(tasks, None, player.calls[0][2]).completion)
    row = int((batch.valid.sum(1) < WIDTH).nonzero()[0])
    again = encode(decode(batch.completion[row]))  # loses the EOS, and with it every later position
    assert len(again) != WIDTH


@frozen
class ShowsTheAnswer:
    def __call__(self, problem, rng):
        return [(0, len(problem.trace))]


def test_the_leak_counter_does_not_trust_the_chunker():
    batch, _ = collect(algorithm(chunker=ShowsTheAnswer(), injection=Full()), verdict=lambda one, text: False)
    assert batch.metrics["hint/answer_leak"] == 4 * 4 * 2  # "#" and the value, in every row
    clean, _ = collect(algorithm(injection=Full()), verdict=lambda one, text: False)
    assert clean.metrics["hint/answer_leak"] == 0


def test_the_value_before_the_answer_is_counted_and_can_be_hidden():
    one = problem("ab", "abcdabcdab#d")
    never = lambda *_: False  # noqa: E731
    tasks = [one, problem("ba", "abcabcabca#d")]
    options = {"prompts": 2, "injection": Full(), "chunker": RandomLength(low=2, high=3)}
    words = problem("ab", "abcdabcdab#d")
    value = torch.zeros(12, dtype=torch.bool)
    value[[3, 7, 11]] = True
    tasks[0] = evolve(words, answer_value=value)
    seen, _ = collect(algorithm(**options), verdict=never, tasks=tasks)
    assert seen.metrics["hint/answer_value_seen"] == 4
    hidden, player = collect(algorithm(**options, hide_value=True), verdict=never, tasks=tasks)
    assert hidden.metrics["hint/answer_value_seen"] == 0
    assert (player.calls[1][1][:4] >= 0).sum() == 4 * 8


@frozen
class Watching:
    """Shows everything, and writes down what that led to."""

    def __call__(self, problem, chunks, rows, progress, rng, memory):
        return torch.ones(rows, len(chunks), dtype=torch.bool)

    def observe(self, key, shown, correct, memory):
        memory.setdefault("seen", []).append([key, shown.tolist(), correct.tolist()])


def test_an_injection_that_observes_sees_what_was_shown_and_keeps_its_memory():
    memory: dict = {}
    player = Player(TinyDenoiser(), WIDTH, judge)
    batch = algorithm(injection=Watching()).collect(player, endless(problems()), 0.0, 0, memory=memory)
    seen = memory["injection"]["seen"]
    assert [key for key, _, _ in seen] == [key for key, stuck in zip(batch.keys, batch.stuck, strict=True) if stuck][
        ::4
    ]
    for key, shown, correct in seen:
        assert all(all(row) for row in shown)
        rows = [row for row in range(16) if batch.keys[row] == key]
        assert sum(correct) >= int(batch.hinted[rows].sum())
    assert any(any(correct) for _, _, correct in seen)


# where hints come from, and where they stand ----------------------------------------------------------------------------


def retrace(one: Problem, tokens) -> Problem:
    """A completion as a trace: its last two letters are the answer, as in the problems of these tests."""
    return evolve(one, trace=tokens, hintable=torch.arange(len(tokens)) < len(tokens) - 2)


class Moody:
    """A player whose rows are right in some rounds and wrong in others; hinted rows are right."""

    def __init__(self, right: list[bool], keys: tuple[str, ...] = ()) -> None:
        self.player, self.right, self.keys = Player(TinyDenoiser(), WIDTH, lambda one, text: False), right, keys
        self.overlays: list = []

    def __call__(self, tasks, overlay, seeds):
        rollouts = self.player(tasks, overlay, seeds)
        if overlay is None:
            now = self.right.pop(0)
            correct = torch.tensor([now and (not self.keys or one.key in self.keys) for one in tasks], dtype=torch.bool)
        else:
            self.overlays.append(overlay)
            correct = torch.ones(len(tasks), dtype=torch.bool)
        return evolve(rollouts, correct=correct, reward=correct.float())


def test_an_own_success_serves_as_the_trace_once_the_problem_is_stuck():
    memory: dict = {}
    tasks = [evolve(one, breaks=None) for one in problems()]
    rl = algorithm(injection=Full(), hints_from="own-success")

    def phase(step: int, right: bool, keys=()):
        play = Moody([right], keys)
        flat = lambda one, tokens: evolve(  # noqa: E731
            retrace(one, tokens), **dict.fromkeys(("breaks", "steps", "answer_value"), torch.zeros(len(tokens)).bool())
        )
        return rl.collect(play, endless(tasks), 0.0, step, memory=memory, retrace=flat), play

    batch, play = phase(0, False)
    assert batch.stuck.all()
    assert play.overlays == []  # nothing is known yet, so nothing is shown: not even the worked solution
    lucky = (tasks[0].key, tasks[2].key)
    good, _ = phase(1, True, lucky)
    assert sorted(memory["successes"]) == sorted(lucky)
    batch, play = phase(2, False)
    assert len(play.overlays[0]) == 8
    for group, first in ((0, 0), (1, 8)):
        row = good.completion[first]
        for overlay in play.overlays[0][group * 4 : group * 4 + 4]:
            assert torch.equal(overlay[:10], row[:10])
            assert (overlay[10:] == -1).all()  # the answer of the own success is hidden as well
    assert batch.metrics["hint/answer_leak"] == 0
    assert batch.hinted.view(4, 4).any(1).tolist() == [True, False, True, False]


def test_either_takes_the_worked_solution_where_there_is_no_own_success():
    memory: dict = {}
    tasks, width = problems(), WIDTH
    rl = algorithm(injection=Full(), hints_from="either")
    none = torch.zeros(width, dtype=torch.bool)

    def flat(one, tokens):
        return evolve(retrace(one, tokens), breaks=none, steps=none, answer_value=none)

    good = rl.collect(Moody([True], (tasks[1].key,)), endless(tasks), 0.0, 0, memory=memory, retrace=flat)
    play = Moody([False])
    rl.collect(play, endless(tasks), 0.0, 1, memory=memory, retrace=flat)
    for index, one in enumerate(tasks):
        wanted = good.completion[4] if index == 1 else one.trace
        assert torch.equal(play.overlays[0][4 * index, :10], wanted[:10])


def test_an_own_success_whose_answer_cannot_be_located_is_not_used():
    memory: dict = {}
    rl = algorithm(hints_from="own-success")
    for step, right in enumerate((True, False)):
        play = Moody([right])
        rl.collect(play, endless(problems()), 0.0, step, memory=memory, retrace=lambda one, tokens: None)
    assert "successes" not in memory
    assert play.overlays == []
    with pytest.raises(ValueError, match="hints_from = 'own-success' needs `retrace`"):
        collect(rl)


def test_a_hinted_success_is_no_own_success():
    """Rows that were shown the worked solution would pass it on under another name."""
    memory: dict = {}
    collected = algorithm(injection=Full(), hints_from="either").collect(
        Moody([False]), endless(problems()), 0.0, 0, memory=memory, retrace=retrace
    )
    assert collected.hinted.any()
    assert "successes" not in memory


def test_spaced_hints_are_spread_out_and_hide_the_answer():
    rl = algorithm(place="spaced", injection=Full(), chunker=RandomLength(low=2, high=2))
    player = Player(TinyDenoiser(length=80), 45, lambda one, text: False)
    batch = rl.collect(player, endless(problems()), 0.0, 0)
    overlay = player.calls[1][1]
    assert batch.metrics["hint/answer_leak"] == 0
    one = problems()[0]
    assert torch.equal(overlay[0][overlay[0] >= 0], one.trace[:8])  # the last chunk of two is under five: dropped
    faulty = evolve(rl, chunker=ShowsTheAnswer()).collect(player, endless(problems()), 0.0, 0)
    assert faulty.metrics["hint/answer_leak"] == 4 * 4 * 2
    with pytest.raises(ValueError, match="place = 'spaced' leaves 30 slots"):
        collect(rl, verdict=lambda one, text: False)


def test_an_injection_cannot_leak_past_the_counter(monkeypatch):
    """A faulty placement that puts the answer's tokens where others belong is counted token by token."""
    from igpo_rl import overlay

    def faulty(chunks, shown, width):
        source = torch.full((len(shown), width), -1)
        source[:, 0] = 11  # the value, at the first slot
        return source

    monkeypatch.setattr(overlay, "place", faulty)
    batch, _ = collect(algorithm(), verdict=lambda one, text: False)
    assert batch.metrics["hint/answer_leak"] == 16


# refills ----------------------------------------------------------------------------------------------------------------


class Easy:
    """Some problems are always solved, the others sometimes."""

    def __init__(self, easy: set[str]) -> None:
        self.easy = easy
        self.player = Player(TinyDenoiser(), WIDTH, lambda one, text: one.key in easy or text.count("a") % 2 == 0)
        self.keys: list[list[str]] = []

    def __call__(self, tasks, overlay, seeds):
        self.keys.append([one.key for one in tasks][::4])
        return self.player(tasks, overlay, seeds)


def test_groups_that_are_right_throughout_are_replaced_by_the_next_problems():
    tasks = problems(12)
    names = [one.key for one in tasks]
    play = Easy({names[1], names[2], names[5], *names[8:]})
    memory: dict = {}
    batch = algorithm(refills=2).collect(play, endless(tasks), 0.0, 0, memory=memory)
    assert play.keys[:3] == [names[:4], names[4:6], names[6:7]]
    assert batch.keys[::4] == (names[0], names[4], names[6], names[3])
    assert memory["drawn"] == 7
    assert batch.metrics["sample/refills"] == 2
    assert batch.metrics["sample/skipped"] == 3 / 4
    assert batch.group.tolist() == [row // 4 for row in range(16)]
    assert not batch.correct.view(4, 4).all(1).any()
    plain = algorithm().collect(Easy(play.easy), endless(tasks), 0.0, 0)
    assert batch.metrics["correct/mean"] == plain.metrics["correct/mean"]  # of the problems as they came
    for row in (*range(4), *range(12, 16)):
        assert torch.equal(batch.completion[row], plain.completion[row])


def test_refills_are_bounded_and_what_is_left_stays():
    tasks = problems(12)
    play = Easy({one.key for one in tasks})
    batch = algorithm(refills=2).collect(play, endless(tasks), 0.0, 0)
    assert [len(keys) for keys in play.keys] == [4, 4, 4]
    assert batch.correct.all()
    assert len(batch) == 16


def test_without_refills_the_next_phase_draws_where_this_one_ended():
    memory: dict = {}
    for step in range(2):
        algorithm().collect(Easy(set()), endless(problems()), 0.0, step, memory=memory)
    assert memory["drawn"] == 8


def test_correct_alone_decides_what_is_stuck_and_what_is_rescued():
    """A reward may have other parts, for form or length: wrong rows that earn some are still wrong."""
    player = Player(TinyDenoiser(), WIDTH, judge)

    def play(tasks, overlay, seeds):
        rollouts = player(tasks, overlay, seeds)
        form = (rollouts.completion.sum(1) % 2).float()
        return evolve(rollouts, reward=rollouts.correct.float() * 3 + form * 0.75)

    rewarded = algorithm(seed=3).collect(play, endless(problems()), 0.0, 0)
    plain, _ = collect(algorithm(seed=3))
    assert torch.equal(rewarded.stuck, plain.stuck)
    assert torch.equal(rewarded.hinted, plain.hinted)
    assert torch.equal(rewarded.completion, plain.completion)
    assert rewarded.metrics["stuck/rescued"] == plain.metrics["stuck/rescued"]
    wrong = rewarded.reward[~rewarded.correct]
    assert set(wrong.tolist()) == {0.0, 0.75}
    table = rewarded.reward.view(-1, 4)
    assert torch.allclose(rewarded.advantage.view(-1, 4), table - table.mean(1, keepdim=True))
    faulty = ~(rewarded.reward.view(-1, 4) > 0).any(1)  # a trigger that looks at rewards misses stuck groups
    assert not torch.equal(faulty, plain.stuck.view(-1, 4)[:, 0])


def test_replacement_stops_at_the_share():
    always = lambda one, text: True  # noqa: E731
    flaky = Player(TinyDenoiser(), WIDTH, always)

    def play(tasks, overlay, seeds):
        rollouts = flaky(tasks, overlay, seeds)
        correct = rollouts.correct if overlay is not None else torch.zeros_like(rollouts.correct)
        return evolve(rollouts, correct=correct, reward=correct.float())

    for replace, expected in ((0.0, 0), (0.29, 1), (0.5, 2), (0.7, 2), (0.75, 3), (1.0, 4)):
        batch = algorithm(replace=replace).collect(play, endless(problems()), 0.0, 0)
        assert batch.hinted.view(4, 4).sum(1).tolist() == [expected] * 4


# learn ----------------------------------------------------------------------------------------------------------------

PLANS = [MeanField(), MeanField(prompt_mask=0.3), RandomMask(low=0.2)]


def with_signal(batch):
    """(B,) bool."""
    rewards = batch.reward.view(-1, 4)
    return (rewards != rewards[:, :1]).any(1).repeat_interleave(4)


def hinted_batch(**options):
    """The first one that has it all: a rescued group, a group with signal of its own, and one without any."""
    for seed in range(200):
        batch, _ = collect(algorithm(seed=seed), **options)
        signal = with_signal(batch)
        if (signal & batch.stuck).any() and (signal & ~batch.stuck).any() and not signal.all():
            return batch
    raise AssertionError("no such batch")


@pytest.mark.parametrize("estimator", PLANS)
@pytest.mark.parametrize("loss", [GRPO(beta=0.1), GSPO(beta=0.1)])
def test_accumulation_changes_nothing(estimator, loss):
    """1 x 16 == 16 x 1 in float64, through a moved policy, filtered hints and a reference."""
    batch, reference = hinted_batch(), TinyDenoiser(seed=1).double()
    results = {}
    for rows in (1, 2, 3, 4, 8, 64):
        rl = algorithm(estimator=estimator, loss=loss, score_rows=rows, updates=3)
        gradients, losses = learn(rl, batch, reference=reference, move=nudge)
        values, parts = [0.0], 0
        for one in losses:
            values[-1] += float(one.value.detach())
            parts += 1
            if one.last:
                values.append(0.0)
        results[rows] = (gradients, values[:-1], parts)
    gradients, values, _ = results[64]
    assert len(gradients) == 3
    assert min(map(abs, values)) > 1e-4
    assert results[1][2] > results[8][2] > results[64][2] == 3
    for other, other_values, _ in results.values():
        assert other_values == pytest.approx(values, abs=1e-12)
        assert all(close(one, two) for one, two in zip(gradients, other, strict=True))


def catalogue(hook: str) -> list[str]:
    return sorted(getattr(plugin, hook)().values())


@pytest.mark.parametrize("loss", catalogue("igpo_losses"))
@pytest.mark.parametrize("estimator", catalogue("igpo_estimators"))
def test_every_estimator_works_with_every_loss_that_can_use_its_level(estimator, loss):
    """Through rollouts, hints and two updates: a gradient, the same one in micro-batches, and a first ratio of 1."""
    estimator, loss = resolve_name(estimator)(), resolve_name(loss)()
    if estimator.level not in loss.levels:
        with pytest.raises(ValueError, match="choose another loss or estimator"):
            algorithm(estimator=estimator, loss=loss)
        return
    batch, reference, found = hinted_batch(), TinyDenoiser(seed=1).double(), []
    for rows in (4, 1000):
        rl = algorithm(estimator=estimator, loss=loss, score_rows=rows)
        gradients, losses = learn(rl, batch, reference=reference, move=nudge)
        found.append((gradients, len(losses)))
        first = [one.metrics["policy/ratio_max"] for one in losses[: len(losses) // 2]]
        assert set(first) <= {0.0, 1.0}
        assert 1.0 in first
    (finest, parts), (whole, updates) = found
    assert (parts > updates) == (updates == 2)
    assert all(size(gradient) > 1e-3 for gradient in whole)
    assert not close(*whole, atol=1e-3)
    assert all(close(one, two, atol=1e-9) for one, two in zip(finest, whole, strict=True))


@pytest.mark.parametrize("estimator", PLANS)
def test_the_ratio_of_the_first_update_is_exactly_one(estimator):
    """Trap 8. In float32, in micro-batches, from a policy that comes in training mode."""
    policy = TinyDenoiser(dropout=0.3).train()
    batch = hinted_batch()
    rl = algorithm(estimator=estimator, score_rows=3, updates=2, filter=KeepAll())
    first, moved = [], []
    for loss in rl.learn(policy, None, batch, 0, mask_id=MASK):
        (first if len(moved) == 0 else moved).append(loss)
        if loss.last and not moved:
            nudge(policy)
            moved.append(loss)
    assert sum(one.metrics["policy/ratio"] for one in first) == pytest.approx(1.0, abs=1e-6)
    assert {one.metrics["policy/ratio_max"] for one in first} == {1.0}
    assert any(one.metrics["policy/ratio_max"] != 1.0 for one in moved[1:])


def test_the_first_ratio_is_one_though_kernels_differ_with_and_without_gradients():
    """Trap 8. As attention kernels and autocast may: then an old pass of its own is not the policy's."""

    class Uneven(TinyDenoiser):
        def forward(self, tokens, attention, where, read=None):
            self.head.bias.data[0] = 0.01 if torch.is_grad_enabled() else 0.0
            return super().forward(tokens, attention, where, read)

    losses = list(algorithm(updates=2, filter=KeepAll()).learn(Uneven(), None, hinted_batch(), 0, mask_id=MASK))
    assert [one.metrics["policy/ratio_max"] == 1.0 for one in losses] == [True, False]


def test_a_separate_old_pass_agrees_and_dropout_would_spoil_it():
    batch, policy = hinted_batch(), TinyDenoiser(dropout=0.3)
    view = MeanField()(batch, batch.advantage, torch.arange(16), MASK)
    policy.eval()
    with torch.no_grad():
        old = token_scores(policy, view, batch.completion).logp
    again = token_scores(policy, view, batch.completion, logits=1).logp
    assert (again - old).abs().max() < 1e-5
    policy.train()
    faulty = token_scores(policy, view, batch.completion).logp
    assert ((faulty - old).exp() - 1).abs().max() > 0.1


def test_tokens_that_no_copy_masks_count_in_a_score_of_the_whole_row():
    """The sequence ratio is exp((ELBO - old ELBO) / n) with all n tokens of the row, however many a draw happens to mask."""
    batch, policy = hinted_batch(), TinyDenoiser().double()
    estimator, seen = ELBO(rule="gauss", samples=1), []

    @frozen(kw_only=True)
    class Spy(GSPO):
        def __call__(self, logp, old, advantage, mask, ref, group, hint, totals):
            seen.append((logp.detach(), mask))
            return super().__call__(logp, old, advantage, mask, ref, group, hint, totals)

    learn(algorithm(estimator=estimator, loss=Spy(beta=0.0), filter=KeepAll(), updates=1), batch, policy=policy)
    rows = batch.take(with_signal(batch).nonzero().flatten())
    (logp, mask), *_ = seen
    unscored = mask & (logp == 0)
    assert unscored.any()
    assert (mask | rows.given | ~rows.valid).all()
    assert not (unscored & rows.given).any()  # a hint that is not scored in this view is no candidate of the filter


def test_only_masked_tokens_count_where_each_has_a_score_of_its_own():
    """Shown ones have no log-prob: in the mean they would only make the gradient smaller."""
    seen = []

    @frozen(kw_only=True)
    class Spy(GRPO):
        def __call__(self, logp, old, advantage, mask, ref, group, hint, totals):
            seen.append((logp.detach(), mask))
            return super().__call__(logp, old, advantage, mask, ref, group, hint, totals)

    batch = hinted_batch()
    learn(algorithm(estimator=RandomMask(low=0.2, high=0.5), loss=Spy(), filter=KeepAll(), updates=1), batch)
    (logp, mask), *_ = seen
    assert torch.equal(mask, logp != 0)
    assert mask.any(1).all()
    assert not mask[batch.valid[with_signal(batch)]].all()


def test_mean_field_scores_a_group_with_one_forward():
    batch, policy, reference = hinted_batch(), TinyDenoiser(), TinyDenoiser(seed=1)
    signal = int(with_signal(batch).sum()) // 4
    learn(algorithm(updates=4), batch, policy=policy, reference=reference.double())
    assert policy.inputs == [signal] * 5  # the old pass once, then four updates, with one input a group
    assert reference.inputs == [signal]
    policy, reference = TinyDenoiser(), TinyDenoiser(seed=1)
    learn(algorithm(updates=4, estimator=RandomMask()), batch, policy=policy, reference=reference.double())
    assert policy.inputs == [signal * 4] * 8  # a view of its own for every update, old scored before the first step
    assert reference.inputs == [signal * 4] * 4


def test_without_kl_the_reference_is_not_asked():
    reference = TinyDenoiser(seed=1)
    learn(algorithm(loss=GRPO(beta=0.0)), hinted_batch(), reference=reference.double())
    assert reference.inputs == []


def test_a_row_sees_a_new_mask_in_every_update_however_many_micro_batches_there_are():
    """Trap 1: an index that counts backward passes shows a row the same 1 of 4 planned masks in all 4 updates."""
    updates, parts = 4, 8
    faulty = [{(update * parts + part) % updates for update in range(updates)} for part in range(parts)]
    assert all(len(planned) == 1 for planned in faulty)
    batch, policy, inputs = hinted_batch(), TinyDenoiser(), []
    policy.register_forward_pre_hook(lambda module, given: inputs.append(given[0]) if torch.is_grad_enabled() else None)
    _, losses = learn(algorithm(updates=updates, estimator=RandomMask(low=0.2), score_rows=1), batch, policy=policy)
    rows = len(losses) // updates
    assert rows == int(with_signal(batch).sum()) >= 8
    for row in range(rows):
        assert len({tuple((one[0] == MASK).tolist()) for one in inputs[row::rows]}) == updates


def test_global_generators_are_untouched():
    """Trap 2."""
    rl, policy, reference = algorithm(estimator=MeanField(prompt_mask=0.2)), TinyDenoiser(), TinyDenoiser(seed=1)
    with global_generators_untouched():
        batch, _ = collect(rl, policy=policy)
        for loss in rl.learn(policy, reference, batch, 0, mask_id=MASK):
            loss.value.backward()


def swap(batch, cells):
    """The same batch with other tokens in these cells."""
    return evolve(batch, completion=batch.completion.where(~cells, (batch.completion + 1) % 4))


def filtered(batch, rl):
    """What the filter keeps, from an old pass of the mean-field view."""
    view = MeanField()(batch, batch.advantage, torch.arange(len(batch)), MASK)
    scores = token_scores(TinyDenoiser().double(), view, batch.completion, entropy=True)
    return rl.filter(scores.entropy, scores.logp, batch.given & batch.valid, batch.valid)


@pytest.mark.parametrize("loss", [GRPO(beta=0.1), GSPO(beta=0.1)])
@pytest.mark.parametrize("which", [TopEntropy(tau=0.3), Threshold(nats=1.0), AdaptiveFilter(share=0.5), DropHints()])
def test_filtered_hints_and_hints_behind_the_end_do_not_reach_the_gradient(loss, which):
    """Trap 9. The mean-field input holds no completion, so a token matters exactly where it is scored and kept."""
    batch = hinted_batch()
    ended = batch.valid.clone()
    ended[batch.hinted, 6:] = False  # as if the first EOS stood there
    batch = evolve(batch, valid=ended)
    rl, reference = algorithm(loss=loss, filter=which), TinyDenoiser(seed=1).double()
    kept = filtered(batch, rl)
    hint = batch.given & batch.hinted[:, None]
    assert kept.any() or which == DropHints()
    assert (hint & batch.valid & ~kept).any()
    assert (hint & ~batch.valid).any()

    def gradients(changed):
        return learn(rl, changed, reference=reference, move=nudge)[0]

    base = gradients(batch)
    for silent in (hint & batch.valid & ~kept, hint & ~batch.valid):
        for one, other in zip(base, gradients(swap(batch, silent)), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    for loud in (kept, batch.valid & ~batch.given & with_signal(batch)[:, None]):
        assert not loud.any() or not close(base[0], gradients(swap(batch, loud))[0], atol=1e-6)


def test_a_sequence_ratio_over_all_tokens_lets_filtered_hints_through():
    """Trap 9, the faulty variant: the mean that makes the sequence ratio runs over dropped tokens too."""
    logp = torch.tensor([[-1.0, -2.0, -0.5]], requires_grad=True)
    kept = torch.tensor([[True, False, True]])
    faulty = (logp - logp.detach()).mean(1).exp()
    ours = row_mean(logp - logp.detach(), kept).exp()
    assert torch.autograd.grad(faulty.sum(), logp)[0][~kept] != 0
    assert torch.autograd.grad(ours.sum(), logp)[0][~kept] == 0


def test_without_the_filter_all_hints_matter():
    batch = hinted_batch()
    rl = algorithm(filter=KeepAll())
    silent = batch.given & ~filtered(batch, algorithm())
    assert not close(learn(rl, batch)[0][0], learn(rl, swap(batch, silent))[0][0], atol=1e-6)


def test_groups_without_signal_give_no_gradient_and_stay_in_the_denominator():
    batch, reference = hinted_batch(), TinyDenoiser(seed=1).double()
    signal = with_signal(batch)
    rl = algorithm(loss=GRPO(beta=0.1))
    whole, _ = learn(rl, batch, reference=reference)
    alone, _ = learn(rl, batch.take(signal.nonzero().flatten()), reference=reference)
    share = float(signal.float().mean())
    assert close(whole[0], [one * share for one in alone[0]])
    assert size(whole[0]) > 1e-3
    kept, _ = learn(algorithm(loss=GRPO(beta=0.1), keep_zero_signal=True), batch, reference=reference)
    assert not close(whole[0], kept[0], atol=1e-4)


def test_a_batch_without_any_signal_still_gives_every_update_a_zero_gradient():
    batch, _ = collect(algorithm(injection=NoInjection()), verdict=lambda one, text: False)
    policy = TinyDenoiser()
    gradients, losses = learn(algorithm(updates=3), batch, policy=policy, reference=TinyDenoiser(seed=1).double())
    assert [one.last for one in losses] == [True] * 3
    assert all(size(one) == 0.0 for one in gradients)


def test_ranks_run_equally_many_micro_batches():
    """A rank with fewer rows gets empty ones, forwards included."""
    batch = hinted_batch()

    def beside_a_longer_rank(values):
        return torch.stack([values, values + 3 if values.dtype == torch.long else values])

    policy = TinyDenoiser()
    gradients, losses = [], []
    for loss in algorithm(score_rows=4, updates=1).learn(
        policy, None, batch, 0, mask_id=MASK, gather=beside_a_longer_rank
    ):
        loss.value.backward()
        losses.append(loss)
        gradients.append(loss.value.item())
    alone = sum(1 for _ in algorithm(score_rows=4, updates=1).learn(TinyDenoiser(), None, batch, 0, mask_id=MASK))
    assert len(losses) == alone + 3
    assert gradients[alone:] == [0.0] * 3
    assert policy.inputs[alone:] == [1] * 3 + policy.inputs[:alone] + [1] * 3


@pytest.mark.parametrize(
    ("updates", "injection"),
    [(1, UniformChunks(low=1.0, high=1.0)), (1, Full()), (2, UniformChunks(low=0.0, high=0.0))],
)
def test_the_edges_that_crash_elsewhere_work(updates, injection):
    """Trap 4: mu = 1, eta = 1, eta = 0."""
    rl = algorithm(updates=updates, injection=injection)
    batch, _ = collect(rl)
    gradients, _ = learn(rl, batch)
    assert len(gradients) == updates


@torch.no_grad()
def oracle(rl: IGPO, batch, policy, reference) -> float:
    """The objective of the first update of a mean-field run, row by row and token by token, from the paper's formulas."""
    rewards = batch.reward.view(-1, rl.group)
    total, rows = 0.0, len(batch)
    for row in range(rows):
        group = rewards[row // rl.group]
        if (group == group[0]).all():
            continue
        a = float(batch.reward[row] - group.mean())
        pads = int((~batch.prompt_valid[row]).sum())
        canvas = torch.cat([batch.prompt[row, pads:], torch.full((WIDTH,), MASK)])[None]
        logps = []
        for model in (policy, reference):
            logits = model(canvas, torch.ones_like(canvas, dtype=torch.bool), torch.arange(canvas.numel()))
            logps.append(logits[-WIDTH:].double().log_softmax(-1))
        new, ref = logps
        scored = [k for k in range(WIDTH) if EOS not in batch.completion[row, :k].tolist()]
        hints = [k for k in scored if batch.given[row, k]]
        by_entropy = sorted(hints, key=lambda k: float((new[k].exp() * new[k]).sum()))
        keep = by_entropy[: max(1, int(len(hints) * rl.filter.tau + 1e-9))] if hints else []
        cells = [k for k in scored if k not in hints or k in keep]
        inner = 0.0
        for k in cells:
            d = float(ref[k, batch.completion[row, k]] - new[k, batch.completion[row, k]])
            inner += a - rl.loss.beta * (torch.tensor(d).exp().item() - d - 1)
        total += inner / len(cells)
    return -total / rows


def test_the_first_update_equals_a_slow_reference_written_from_the_paper():
    rl = algorithm(loss=GRPO(beta=0.1), score_rows=4)
    batch = hinted_batch(end_share=0.1)
    assert (batch.valid.sum(1) < WIDTH).any()
    policy, reference = TinyDenoiser().double(), TinyDenoiser(seed=1).double()
    _, losses = learn(rl, batch, policy=copy.deepcopy(policy), reference=reference)
    first = sum(float(one.value.detach()) for one in losses[: len(losses) // 2])
    assert first == pytest.approx(oracle(rl, batch, policy, reference), abs=1e-7)
    assert abs(first) > 1e-3


def test_dropped_hints_are_not_in_the_denominator_of_a_mean_over_tokens():
    batch, rl = hinted_batch(), algorithm(loss=DAPO(), updates=1)
    kept = filtered(batch, rl) | (batch.valid & ~batch.given)
    tokens = (kept & with_signal(batch)[:, None]).sum(1)
    assert int(tokens.sum()) < int(batch.valid[with_signal(batch)].sum())
    _, (loss,) = learn(rl, batch)
    assert loss.value.item() == pytest.approx(-float((batch.advantage * tokens).sum() / tokens.sum()), abs=1e-9)


@pytest.mark.parametrize("estimator", PLANS)
def test_a_batch_from_elsewhere_is_learned_from_once_it_has_advantages(estimator):
    """Without `collect`: keys, group numbers and orders are not needed."""
    batch, _ = collect(algorithm(injection=NoInjection()))
    names = ("prompt", "prompt_valid", "completion", "valid", "reward", "correct", "advantage")
    bare = Rollouts(**{name: getattr(batch, name) for name in names})
    gradients, _ = learn(algorithm(estimator=estimator), bare)
    assert size(gradients[0]) > 1e-3
    if estimator == MeanField():
        assert close(gradients[0], learn(algorithm(), batch)[0][0])


def test_learning_makes_the_rewarded_rows_likelier():
    batch, policy = hinted_batch(), TinyDenoiser()
    rl = algorithm(loss=GRPO(beta=0.0), updates=8)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)

    @torch.no_grad()
    def gap() -> float:
        view = MeanField()(batch, batch.advantage, torch.arange(16), MASK)
        logp = token_scores(policy, view, batch.completion).logp.sum(1)
        return float((logp * batch.advantage).sum())

    before = gap()
    for loss in rl.learn(policy, None, batch, 0, mask_id=MASK):
        loss.value.backward()
        if loss.last:
            optimizer.step()
            optimizer.zero_grad()
    assert gap() > before + 0.1


# errors ---------------------------------------------------------------------------------------------------------------


def test_errors_say_value_bound_and_remedy():
    with pytest.raises(ValueError, match="prompts = 4 cannot be shared by 3 processes"):
        algorithm().collect(
            Player(TinyDenoiser(), WIDTH, judge), endless(problems()), 0.0, 0, gather=lambda v: v.expand(3, -1)
        )
    with pytest.raises(ValueError, match="problems is a list, which would give its first ones in every phase"):
        algorithm().collect(Player(TinyDenoiser(), WIDTH, judge), problems(), 0.0, 0)
    with pytest.raises(ValueError, match="the problems ended after 2"):
        algorithm().collect(Player(TinyDenoiser(), WIDTH, judge), iter(problems()[:2]), 0.0, 0)

    @frozen
    class Sequence(RandomMask):
        level = "sequence"

    with pytest.raises(ValueError, match=r"GRPO needs log-probs per token.*Sequence gives them per sequence"):
        IGPO(estimator=Sequence(), loss=GRPO())
    IGPO(estimator=Sequence(), loss=GSPO())

    @frozen
    class OneRow:
        def __call__(self, problem, chunks, rows, progress, rng, memory):
            return torch.ones(1, len(chunks), dtype=torch.bool)

    with pytest.raises(ValueError, match=r"it returned \(1, \d+\) torch.bool[^\n]*\ninjection OneRow \(test_rl_igpo\)"):
        collect(algorithm(injection=OneRow()), verdict=lambda one, text: False)
    batch, _ = collect(algorithm())
    with pytest.raises(ValueError, match="no advantages"):
        next(algorithm().learn(TinyDenoiser(), None, evolve(batch, advantage=None), 0, mask_id=MASK))


def test_the_player_must_keep_rows_and_hints():
    player = Player(TinyDenoiser(), WIDTH, lambda one, text: False)

    def forgets_a_row(tasks, overlay, seeds):
        return player(tasks, overlay, seeds).take(torch.arange(len(tasks) - 1))

    def forgets_hints(tasks, overlay, seeds):
        return player(tasks, None, seeds)

    with pytest.raises(ValueError, match="play returned 15 rows for 16"):
        algorithm().collect(forgets_a_row, endless(problems()), 0.0, 0)
    with pytest.raises(ValueError, match="play changed the hints"):
        algorithm().collect(forgets_hints, endless(problems()), 0.0, 0)


def test_letters_are_what_the_tiny_task_says():
    assert len(LETTERS) == EOS
