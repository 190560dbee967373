from __future__ import annotations

import itertools

import pytest
import torch
from rl_tiny import EOS, MASK, PAD, TinyDenoiser, problems

from igpo_rl.sft import LEAST_MASKED, Examples, noise, sft_loss
from igpo_rl.views import cut


def examples(count: int = 8, width: int = 14) -> Examples:
    tasks = problems(count)
    return Examples.of([one.prompt for one in tasks], [one.trace for one in tasks], width, eos_id=EOS, pad_id=PAD)


def view_of(made: Examples, step: int = 0, places=None, rows: int | None = None):
    places = torch.arange(len(made)) if places is None else places
    return noise(made, places, rows or len(made), seed=7, step=step, mask_id=MASK)


def levels(view) -> torch.Tensor:
    """t of each row, from the weights 1 / (p L)."""
    return (1 / (view.weight[:, 0] * view.weight.shape[1]) - LEAST_MASKED) / (1 - LEAST_MASKED)


def test_prompts_are_padded_left_and_completions_filled_with_learned_eos():
    made = examples()
    assert made.prompt.shape == (8, 4)
    assert (made.prompt[~made.prompt_valid] == PAD).all()
    assert (made.target[:, 12:] == EOS).all()
    assert made.target_valid.all()
    with pytest.raises(ValueError, match="a target has 12 tokens, the completion width = 11"):
        examples(width=11)


@pytest.mark.parametrize("step", range(5))
def test_noise_levels_are_stratified_over_the_global_batch(step):
    t = levels(view_of(examples(), step)).sort().values
    assert torch.allclose(t.diff(), torch.full((7,), 1 / 8), atol=1e-5)
    assert 0 <= t[0] < 1 / 8


def test_levels_stratified_within_micro_batches_are_not_those_of_the_batch():
    """The split would change the loss: with one row a micro-batch every row gets the same level."""
    made = examples()
    faulty = torch.cat(
        [levels(view_of(made.part(slice(row, row + 1)), places=torch.tensor([0]), rows=1)) for row in range(8)]
    )
    assert faulty.std() < 1e-5
    ours = torch.cat(
        [levels(view_of(made.part(slice(row, row + 1)), places=torch.tensor([row]), rows=8)) for row in range(8)]
    )
    assert torch.allclose(ours, levels(view_of(made)))


def test_rows_split_in_any_way_give_the_same_masks_values_and_gradients():
    made, denoiser = examples(), TinyDenoiser().double()
    whole = view_of(made)
    masked = int(whole.scored.sum())
    results = []
    for size in (1, 3, 8):
        denoiser.zero_grad()
        total, hits = 0.0, 0.0
        for first in range(0, 8, size):
            rows = slice(first, min(8, first + size))
            part = view_of(made.part(rows), places=torch.arange(rows.start, rows.stop), rows=8)
            assert torch.equal(part.noised, whole.noised[rows])
            assert torch.equal(part.noised, cut(whole, rows.start, rows.stop).noised)
            loss = sft_loss(denoiser, part, made.target[rows], rows=8, masked=masked)
            loss.value.backward()
            total += loss.metrics["sft/loss"]
            hits += loss.metrics["sft/accuracy"]
        results.append((total, hits, [parameter.grad.clone() for parameter in denoiser.parameters()]))
    for total, hits, gradients in results[1:]:
        assert total == pytest.approx(results[0][0], abs=1e-12)
        assert hits == pytest.approx(results[0][1])
        assert all(torch.allclose(one, other, atol=1e-12) for one, other in zip(gradients, results[0][2], strict=True))
    assert results[0][0] > 0.1
    assert 0 < results[0][1] < 1


@torch.no_grad()
def test_the_expected_loss_is_the_enumerated_bound():
    """L = 3: the integral over t of the sum over all 8 masks, against many draws. Dividing by the count is another loss."""
    denoiser = TinyDenoiser()
    one = Examples.of([torch.tensor([1, 2])], [torch.tensor([3, 0])], 3, eos_id=EOS, pad_id=PAD)
    count = 20_000
    many = Examples(
        **{name: getattr(one, name).expand(count, -1) for name in ("prompt", "prompt_valid", "target", "target_valid")}
    )
    view = view_of(many)
    drawn = sft_loss(denoiser, view, many.target, rows=count, masked=1).metrics["sft/loss"]
    grid = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    p = (1 - LEAST_MASKED) * grid + LEAST_MASKED
    exact = faulty = 0.0
    for mask in itertools.product([False, True], repeat=3):
        hidden = torch.tensor([mask])
        if not hidden.any():
            continue  # a row without masks contributes 0
        canvas = torch.cat([one.prompt, one.target.masked_fill(hidden, MASK)], 1)
        logits = denoiser(canvas, torch.ones_like(canvas, dtype=torch.bool), torch.arange(2, 5))
        logp = logits.double().log_softmax(-1).gather(-1, one.target[0, :, None])[:, 0]
        entropy = float(-(logp * hidden[0]).sum())
        chance = p ** int(hidden.sum()) * (1 - p) ** int((~hidden).sum())
        exact += float((chance / p).mean()) * entropy / 3
        faulty += float(chance.mean()) * entropy / int(hidden.sum())
    assert drawn == pytest.approx(exact, rel=0.02)
    assert abs(faulty - exact) > 0.05 * exact


def test_the_eos_fill_is_noised_and_learned_like_any_token():
    view = view_of(examples(count=200))
    share = view.scored[:, 12:].float().mean() / view.scored[:, :12].float().mean()
    assert abs(share - 1) < 0.1
    assert (view.noised[:, 4 + 12 :][view.scored[:, 12:]] == MASK).all()


def test_masks_differ_between_steps_and_rows():
    made = examples()
    assert not torch.equal(view_of(made, 0).scored, view_of(made, 1).scored)
    assert len({tuple(row) for row in view_of(made).scored.tolist()}) > 4
