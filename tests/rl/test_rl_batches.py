"""SFT's batches: grouped by length without losing or repeating an example, filled as asked, EOS attended or not."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from rl_tiny import EOS, MASK, PAD, TinyDenoiser, problems

from igpo_rl.seeds import permutation_stream
from igpo_rl.sft import LEAST_MASKED, SFT, Examples, grouped_stream, noise
from igpo_rl.trainer import Optimizer, Routine, train_sft


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 3), st.integers(0, 150))
def test_every_example_comes_once_an_epoch_whatever_was_skipped(lengths, batch, seed, start):
    count = len(lengths)
    order = list(islice(grouped_stream(lengths, batch, seed), 4 * count))
    for epoch in range(4):
        assert sorted(order[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert list(islice(grouped_stream(lengths, batch, seed, start=start), count)) == list(
        islice(grouped_stream(lengths, batch, seed), start, start + count)
    )


@pytest.mark.parametrize("count", [1_000, 1_003])
def test_batches_are_of_like_length_also_where_epochs_do_not_end_with_a_batch(count):
    lengths = [1 + (37 * index) % 251 for index in range(count)]

    def padding(stream) -> float:
        """Mean share of a batch that is padding, over three epochs."""
        batches = [list(islice(stream, 8)) for _ in range(3 * count // 8)]
        shares = [1 - sum(lengths[i] for i in batch) / 8 / max(lengths[i] for i in batch) for batch in batches]
        return sum(shares) / len(shares)

    grouped, plain = padding(grouped_stream(lengths, 8, "seed")), padding(permutation_stream(count, "seed"))
    print(f"padding: grouped {grouped:.3f}, not grouped {plain:.3f}")
    assert grouped < 0.08 < 0.35 < plain


def test_epochs_differ_and_batches_come_in_no_order_of_length():
    lengths = list(range(400))
    order = list(islice(grouped_stream(lengths, 8, 0), 800))
    first, second = ([frozenset(part[at : at + 8]) for at in range(0, 400, 8)] for part in (order[:400], order[400:]))
    assert set(first) != set(second) or first != second
    assert first != second
    means = torch.tensor([sum(lengths[i] for i in batch) / 8 for batch in first])
    places = torch.arange(len(means), dtype=torch.float)
    assert abs(torch.corrcoef(torch.stack([means, places]))[0, 1]) < 0.4
    assert order != list(islice(grouped_stream(lengths, 8, 1), 800))


def sft(options: SFT, *, attend_eos: bool = True) -> tuple[list[float], list[torch.Tensor], list[int]]:
    """Losses, weights, and the widths of the canvases that the model was given."""
    model, losses, widths = TinyDenoiser().double(), [], []
    model.register_forward_pre_hook(lambda module, inputs: widths.append(inputs[0].shape[1]))
    short = [(one.prompt, one.trace[: 3 + number % 8]) for number, one in enumerate(problems(16))]
    train_sft(
        options,
        Accelerator(cpu=True).prepare_model(model),
        short,
        accelerator=Accelerator(cpu=True),
        optimizer=Optimizer(lr=1e-2, warmup=0),
        routine=Routine(log=lambda step, phase, metrics: losses.append(metrics["sft/loss"])),
        width=14,
        mask_id=MASK,
        eos_id=EOS,
        pad_id=PAD,
        attend_eos=attend_eos,
    )
    return losses, list(model.parameters()), widths


def test_grouped_and_shortly_filled_batches_are_narrower_and_do_not_depend_on_micro_batches():
    wide = sft(SFT(steps=4, batch=4))[2]
    losses, weights, narrow = sft(SFT(steps=4, batch=4, group_lengths=True, fill="longest"))
    assert max(narrow) <= max(wide)
    assert sum(narrow) < sum(wide)
    again = sft(SFT(steps=4, batch=4, group_lengths=True, fill="longest", score_rows=3))
    assert again[0] == pytest.approx(losses)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(weights, again[1], strict=True))
    assert all(loss > 0 for loss in losses)


def test_without_attended_eos_the_fill_is_neither_learned_nor_seen():
    made = {
        attended: Examples.of(
            [torch.tensor([0]), torch.tensor([0, 1])],
            [torch.tensor([1, 2]), torch.tensor([1, 2, 3, 0])],
            6,
            eos_id=EOS,
            pad_id=PAD,
            attend_eos=attended,
        )
        for attended in (True, False)
    }
    assert torch.equal(made[True].target, made[False].target)
    assert made[True].attention is None
    assert made[False].target_valid.tolist() == [[True] * 3 + [False] * 3, [True] * 5 + [False]]
    assert torch.equal(made[False].attention, made[False].target_valid)
    for step in range(5):
        view = noise(made[False], torch.arange(2), 2, seed=0, step=step, mask_id=MASK)
        assert not (view.scored & ~made[False].target_valid).any()
        assert torch.equal(view.attention[:, 2:], made[False].target_valid)
        p = 1 / (view.weight[:, 0] * torch.tensor([3.0, 5.0]))  # the mean is over what is learned, not over the width
        assert float((p[0] - p[1]).abs()) == pytest.approx(0.5 * (1 - LEAST_MASKED), abs=1e-5)
    # What stands in the hidden fill changes no logit of what is seen.
    model = TinyDenoiser()
    seen = view.attention.flatten().nonzero()[:, 0]
    changed = view.noised.masked_fill(~view.attention, 3)
    assert not torch.equal(changed, view.noised)
    assert torch.equal(model(view.noised, view.attention, seen), model(changed, view.attention, seen))
    assert sft(SFT(steps=2, batch=4), attend_eos=False)[0] != sft(SFT(steps=2, batch=4))[0]
