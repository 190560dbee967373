"""Conformance checks for the five kinds of plug-in that this package defines; for its own and for third parties'.

Each check raises AssertionError that says what is wrong with the plug-in. None needs a test framework.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING

from attrs import evolve

from igpo_rl import later
from igpo_rl.chunkers import Chunker
from igpo_rl.filters import EntropyFilter
from igpo_rl.injections import Injection, Memory, Observer
from igpo_rl.losses import PolicyLoss, needs_whole_groups
from igpo_rl.records import Loss, Problem, Rollouts, Totals, View
from igpo_rl.seeds import derive, uniforms
from igpo_rl.views import LikelihoodEstimator, by_row, cut, same_plan

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")

MASK_ID = 9
PLAIN = (str, int, float, bool, type(None))


def check_chunker(chunker: Chunker) -> None:
    """Spans ascend and tile exactly the hintable tokens; the same generator state gives the same spans."""
    for hintable in ("", "0", "1", "1111", "0110", "1" * 40, "1" * 23 + "000" + "1" * 3 + "0" + "1" * 17, "10" * 12):
        problem = _problem(hintable)
        for seed in range(20):
            with global_generators_untouched():
                spans = list(chunker(problem, Random(seed)))
            _require(spans == list(chunker(problem, Random(seed))), "the same seed gave other chunks")
            _require(all(start < end for start, end in spans), f"an empty chunk in {spans}")
            covered = [token for start, end in spans for token in range(start, end)]
            wanted = [token for token, flag in enumerate(hintable) if flag == "1"]
            _require(covered == wanted, f"chunks {spans} do not tile the hintable tokens of {hintable!r} in order")
    bare = Problem(key="no trace", prompt=torch.tensor([1, 2]))
    _require(not list(chunker(bare, Random(0))), "a problem without a trace has no chunks")


def check_injection(injection: Injection, rows: int = 6) -> None:
    """A (rows, K) bool table or None, a function of its arguments alone; `observe`, where there is one, takes what was shown."""
    problem = _problem("1" * 40)
    for count in (0, 1, 2, 7):
        chunks = [(5 * index, 5 * index + 5) for index in range(count)]
        for progress in (0.0, 0.5, 1.0):
            memory: Memory = {}
            with global_generators_untouched():
                shown = injection(problem, chunks, rows, progress, Random(1), memory)
            again = injection(problem, chunks, rows, progress, Random(1), {})
            if shown is None or again is None:
                _require(shown is again, "the same arguments gave None once and a table once")
                continue
            _require(
                shown.dtype == torch.bool and tuple(shown.shape) == (rows, count),
                f"the table is {tuple(shown.shape)} {shown.dtype}, not {(rows, count)} torch.bool",
            )
            _require(bool((shown == again).all()), "the same arguments gave another table")
            if isinstance(injection, Observer):
                injection.observe(problem.key, shown, torch.arange(rows) % 2 == 0, memory)
            _require(_is_plain(memory), "memory holds more than plain values, lists and dicts; it could not be written")


def check_filter(entropy_filter: EntropyFilter) -> None:
    """Keeps a subset of the scored hints, row by row."""
    rows, width = 7, 23
    entropy, logp = _random(1, rows, width) * 3, -_random(2, rows, width) * 5
    hint, scored = _random(3, rows, width) < 0.5, _random(4, rows, width) < 0.7
    hint[0], scored[1] = False, False
    with global_generators_untouched():
        kept = entropy_filter(entropy, logp, hint, scored)
    _require(kept.dtype == torch.bool and kept.shape == hint.shape, f"kept is {tuple(kept.shape)} {kept.dtype}")
    _require(not bool((kept & ~(hint & scored)).any()), "it keeps tokens that are no scored hints")
    for row in range(rows):
        part = slice(row, row + 1)
        alone = entropy_filter(entropy[part], logp[part], hint[part], scored[part])
        _require(torch.equal(alone, kept[part]), "a row is filtered differently alone and in a batch")


def check_estimator(estimator: LikelihoodEstimator) -> None:
    """A plan that never shows what it scores, scores nothing behind the end, and treats a group alike alone and in any batch."""
    rollouts = random_rollouts()
    seeds = torch.tensor([derive("view", row) for row in range(len(rollouts))])
    advantage = torch.linspace(-1, 1, len(rollouts))
    with global_generators_untouched():
        view = estimator(rollouts, advantage, seeds, MASK_ID)
    _require(estimator.level in ("token", "sequence"), f"level = {estimator.level!r} is neither 'token' nor 'sequence'")
    _require(same_plan(view, estimator(rollouts, advantage, seeds, MASK_ID)), "the same seeds gave another view")
    _check_view(view, rollouts)
    size = int((rollouts.group == 0).sum())
    for first in range(0, len(rollouts), size):
        rows = slice(first, first + size)
        alone = estimator(rollouts.take(torch.arange(first, first + size)), advantage[rows], seeds[rows], MASK_ID)
        _require(
            _same_cells(alone, cut(view, first, first + size)), "a group is viewed differently alone and in a batch"
        )
    nobody = estimator(rollouts.take(torch.arange(0)), advantage[:0], seeds[:0], MASK_ID)
    _require(len(nobody.noised) == 0 and len(nobody.row) == 0, "a batch without rows must give a view without inputs")
    wider = evolve(
        rollouts,
        prompt=torch.nn.functional.pad(rollouts.prompt, (3, 0)),
        prompt_valid=torch.nn.functional.pad(rollouts.prompt_valid, (3, 0)),
    )
    padded = estimator(wider, advantage, seeds, MASK_ID)
    _require(
        torch.equal(padded.noised[:, 3:], view.noised) and torch.equal(padded.scored, view.scored),
        "more left padding changed the view",
    )


def _check_view(view: View, rollouts: Rollouts) -> None:
    rows, width = rollouts.completion.shape
    start = rollouts.prompt.shape[1]
    _require(view.scored.dtype == torch.bool, "`scored` must be bool")
    _require(bool((view.row[1:] >= view.row[:-1]).all()), "`row` must be sorted")
    _require(int(view.source.max()) < len(view.noised), "`source` points beyond the noised inputs")
    _require(len(view.noised) <= len(view.row), "there are more inputs than scorings")
    _require(bool(view.weight.isfinite().all()), "`weight` must be finite")
    _require(not bool((view.scored & ~rollouts.valid[view.row]).any()), "it scores positions behind the first EOS")
    completion = view.noised[view.source][:, start:]
    _require(bool((completion[view.scored] == MASK_ID).all()), "a scored token is visible in its own input")
    noised, clean = view.noised[view.source], torch.cat([rollouts.prompt, rollouts.completion], 1)[view.row]
    own = (noised == MASK_ID) | (noised == clean)
    _require(bool(own.all()), "a row's input shows tokens of another prompt or completion")
    attended = view.attention[view.source][:, :start]
    _require(torch.equal(attended, rollouts.prompt_valid[view.row]), "left padding is attended, or a prompt is not")
    table = by_row(view, torch.zeros_like(view.weight), rows)
    _require(tuple(table.shape) == (rows, width), f"`reduce` gives {tuple(table.shape)}, not {(rows, width)}")


def check_loss(loss: PolicyLoss) -> None:
    """Masked tokens get exactly no gradient, parts add up however they are cut, and no row at all is no error."""
    rows, width, size = 12, 9, 4
    logp, old, ref = (-_random(seed, rows, width).double() for seed in (1, 2, 3))
    mask, hint = _random(4, rows, width) < 0.7, _random(5, rows, width) < 0.3
    mask[2] = False
    advantage = torch.tensor([0.75, -0.25, -0.25, -0.25] * 3, dtype=torch.float64)
    group = torch.arange(rows) // size
    totals = Totals(rows=rows + size, tokens=int(mask.sum()))

    def run(part: slice, reference: Tensor | None = ref) -> tuple[Loss, Tensor]:
        leaf = logp[part].clone().requires_grad_()
        kept = None if reference is None else reference[part]
        result = loss(leaf, old[part], advantage[part], mask[part], kept, group[part], hint[part], totals)
        _require(result.value.shape == (), f"the value has shape {tuple(result.value.shape)}; it must be one number")
        return result, torch.autograd.grad(result.value, leaf)[0]

    with global_generators_untouched():
        whole, gradient = run(slice(0, rows))
    _require(
        bool(whole.value.isfinite()) and bool(gradient.isfinite().all()), "the value or its gradient is not finite"
    )
    _require(bool((gradient[~mask] == 0).all()), "tokens outside the mask get gradient")
    _require(bool((gradient != 0).any()), "no token gets any gradient")
    for step in (size,) if needs_whole_groups(loss) else (size, 1, 5):
        parts = [run(slice(first, min(rows, first + step))) for first in range(0, rows, step)]
        total = torch.stack([part.value for part, _ in parts]).sum()
        _require(torch.allclose(total, whole.value, atol=1e-12), "the values of parts do not add up to the batch's")
        whole_again = torch.cat([one for _, one in parts])
        _require(torch.allclose(whole_again, gradient, atol=1e-12), "the gradients of parts differ")
    _require(bool((run(slice(0, 0))[0].value == 0).all()), "a part without rows must be worth 0")
    _require(bool(run(slice(0, rows), None)[0].value.isfinite()), "without a reference the value must be finite")
    _require(
        set(loss.levels) <= {"token", "sequence"} and bool(loss.levels), f"levels = {loss.levels} names no known level"
    )
    _require(loss.beta >= 0, f"beta = {loss.beta} is negative")


def random_rollouts(
    groups: int = 3, size: int = 4, prompt: int = 6, width: int = 11, *, vocabulary: int = MASK_ID, seed: int = 0
) -> Rollouts:
    """Plausible rows: left-padded prompts shared by a group, some hints, completions that end early, at the end or never."""
    rows = groups * size

    def tokens(name: str, count: int, length: int) -> Tensor:
        return (_random(derive(seed, name), count, length) * vocabulary).long()

    shift = torch.arange(groups) % prompt
    length = torch.arange(1, rows + 1) * width // rows
    given = _random(derive(seed, "given"), rows, width) < 0.2
    correct = _random(derive(seed, "correct"), rows, 1)[:, 0] < 0.5
    return Rollouts(
        prompt=tokens("prompt", groups, prompt).repeat_interleave(size, 0),
        prompt_valid=(torch.arange(prompt) >= shift[:, None]).repeat_interleave(size, 0),
        completion=tokens("completion", rows, width),
        given=given,
        valid=torch.arange(width) < length[:, None].clamp(min=1),
        order=(_random(derive(seed, "order"), rows, width) * width).long().masked_fill(given, -1),
        confidence=torch.ones(rows, width),
        reward=correct.float(),
        correct=correct,
        verifiable=torch.ones(rows, dtype=torch.bool),
        group=torch.arange(groups).repeat_interleave(size),
        forwards=torch.ones(rows, dtype=torch.long),
        keys=tuple(f"problem {row // size}" for row in range(rows)),
    )


@contextmanager
def global_generators_untouched() -> Iterator[None]:
    """Raises AssertionError where the body draws from a global random generator, or seeds one."""
    before, before_torch = random.getstate(), torch.get_rng_state()
    yield
    _require(random.getstate() == before, "Python's global random generator was used; draw from `rng` or a seed")
    _require(torch.equal(torch.get_rng_state(), before_torch), "torch's global generator was used; draw from `seeds`")


def _problem(hintable: str) -> Problem:
    flags = torch.tensor([flag == "1" for flag in hintable], dtype=torch.bool)
    breaks = torch.arange(len(flags)) % 7 == 6
    return Problem(
        key=f"hintable {hintable}",
        prompt=torch.tensor([1, 2]),
        trace=torch.arange(len(flags)),
        hintable=flags,
        breaks=breaks,
        steps=torch.arange(len(flags)) % 11 == 10,
        answer_value=torch.zeros_like(flags),
    )


def _same_cells(one: View, other: View) -> bool:
    """Equal scorings, whatever the order of the inputs."""
    return all(
        torch.equal(left, right)
        for left, right in (
            (one.noised[one.source], other.noised[other.source]),
            (one.attention[one.source], other.attention[other.source]),
            (one.row, other.row),
            (one.scored, other.scored),
            (one.weight, other.weight),
        )
    )


def _random(seed: int, rows: int, width: int) -> Tensor:
    return uniforms(torch.tensor([derive(seed, row) for row in range(rows)]), width)


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN)


def _require(condition: bool, fault: str) -> None:
    if not condition:
        raise AssertionError(fault)
