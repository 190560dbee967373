from __future__ import annotations

import weakref

import pytest
import torch
from rl_tiny import MASK, TinyDenoiser
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from igpo_rl.estimators import MeanField, RandomMask
from igpo_rl.scores import token_scores
from igpo_rl.testing import global_generators_untouched, random_rollouts
from igpo_rl.views import cut

ESTIMATORS = [MeanField(), MeanField(prompt_mask=0.3), RandomMask()]


def case(estimator=None, **options):
    """A batch, its view, and the published computation: full-vocabulary log-softmax at every position of every row."""
    rollouts = random_rollouts(vocabulary=MASK, **options)
    view = (estimator or MeanField())(rollouts, torch.zeros(len(rollouts)), torch.arange(len(rollouts)), MASK)
    return rollouts, view


def published(denoiser, view, completion):
    inputs = view.noised[view.source]
    logits = denoiser(inputs, view.attention[view.source], torch.arange(inputs.numel())).view(*inputs.shape, -1)
    full = logits[:, -completion.shape[1] :].double().log_softmax(-1)
    logp = full.gather(-1, completion[view.row][..., None])[..., 0]
    return (
        logp * view.scored,
        -(full.exp() * full).sum(-1) * view.scored,
        (full.argmax(-1) == completion[view.row]) & view.scored,
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("logits", [1, 300, 10**9])
@torch.no_grad()
def test_scores_equal_log_softmax_and_gather(estimator, logits):
    rollouts, view = case(estimator)
    denoiser = TinyDenoiser()
    scores = token_scores(denoiser, view, rollouts.completion, entropy=True, hits=True, logits=logits)
    logp, entropy, hit = published(denoiser, view, rollouts.completion)
    assert logp.abs().max() > 1
    assert (scores.logp - logp).abs().max() < 1e-5
    assert (scores.entropy - entropy).abs().max() < 1e-5
    assert torch.equal(scores.hit, hit)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_equal_those_of_the_published_computation(estimator):
    rollouts, view = case(estimator)
    denoiser = TinyDenoiser().double()
    weight = torch.linspace(-1, 1, view.scored.numel(), dtype=torch.float64).view_as(view.scored)
    gradients = []
    for logp in (
        token_scores(denoiser, view, rollouts.completion, logits=150, entropy=True).logp,
        published(denoiser, view, rollouts.completion)[0],
    ):
        gradients.append(torch.autograd.grad((logp * weight).sum(), list(denoiser.parameters())))
    for (name, _), ours, theirs in zip(denoiser.named_parameters(), *gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)
        assert theirs.abs().max() > 1e-3 or name.endswith("k.bias")  # which no softmax can see


def test_gradcheck_through_the_chunks():
    rollouts, view = case(RandomMask(low=0.9), groups=1, size=5, prompt=2, width=8)
    hidden = torch.randn(5, 10, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def logp(hidden, weight):
        def denoiser(tokens, attention, where, read):
            return read(lambda rows: rows @ weight.T, hidden.flatten(0, 1)[where])

        return token_scores(denoiser, view, rollouts.completion, logits=1).logp

    assert int(view.scored.sum()) > 16  # more than one chunk
    assert torch.autograd.gradcheck(logp, (hidden.requires_grad_(), weight.requires_grad_()))


def test_one_forward_and_one_head_row_for_each_distinct_position():
    rollouts, view = case(groups=3, size=8)
    denoiser = TinyDenoiser()
    token_scores(denoiser, view, rollouts.completion).logp.sum().backward()
    assert denoiser.inputs == [3]  # one input a group of 8, in one forward
    distinct = int(rollouts.valid.view(3, 8, -1).any(1).sum())
    assert sum(denoiser.head_rows) == 2 * distinct  # once forward, once recomputed for the backward pass
    assert distinct < int(rollouts.valid.sum())  # the published way: one head row for each row's position


def test_at_most_one_chunk_of_logits_exists_at_a_time():
    """Peak memory is rows of the head times vocabulary; it must not grow with the number of scored positions."""
    for groups in (2, 20):
        rollouts, view = case(RandomMask(low=0.5, high=0.5), groups=groups, size=4)
        denoiser = TinyDenoiser()
        token_scores(denoiser, view, rollouts.completion, entropy=True, logits=16 * 8).logp.sum().backward()
        assert max(denoiser.head_rows) <= 16
        assert sum(denoiser.head_rows) == 2 * int(view.scored.sum())


def test_nothing_of_the_size_of_all_logits_is_kept_for_the_backward_pass():
    rollouts, view = case(RandomMask(low=0.5, high=0.5), groups=8, size=4)
    denoiser, saved = TinyDenoiser(vocabulary=512), []

    def pack(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        token_scores(denoiser, view, rollouts.completion)
        kept = max(saved)
        saved.clear()
        published(denoiser, view, rollouts.completion)
    assert kept < 512 * int(view.scored.sum()) / 4  # activations of the body
    assert max(saved) >= 512 * int(view.scored.sum())  # the published way keeps every position's logits


class Bytes(TorchDispatchMode):
    """The most bytes that operations have made and that are there at once, as the storages say: the same on any machine."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in self.known:
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.gone, storage._cdata, storage.nbytes())
        return result

    def gone(self, key, size):
        self.known.remove(key)
        self.now -= size


def peak(function, gradients):
    with Bytes() as seen:
        function()
    return seen.most - gradients


def test_peak_bytes_of_scoring_do_not_grow_with_positions_times_vocabulary():
    """Forward and backward, beyond the gradients; the published way holds several logits for each position."""
    ours, theirs = [], []
    for groups in (16, 64):
        rollouts, view = case(RandomMask(low=0.5, high=0.5), groups=groups, size=4)
        denoiser = TinyDenoiser(vocabulary=2048)
        gradients = sum(weight.nbytes for weight in denoiser.parameters())

        def scored(denoiser=denoiser, view=view, rollouts=rollouts):
            token_scores(denoiser, view, rollouts.completion, entropy=True, logits=16 * 2048).logp.sum().backward()

        def plain(denoiser=denoiser, view=view, rollouts=rollouts):
            tokens = rollouts.completion[view.row]
            logits = denoiser(view.noised, view.attention, torch.arange(view.noised.numel()))
            logits = logits.view(*view.noised.shape, -1)[view.source, -tokens.shape[1] :]
            (logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0] * view.scored).sum().backward()

        for side, found in ((scored, ours), (plain, theirs)):
            denoiser.zero_grad()
            found.append(peak(side, gradients))
    logits = int(view.scored.sum()) * 2048 * 4
    assert ours[1] < logits / 2 < theirs[1]
    assert ours[1] - ours[0] < (theirs[1] - theirs[0]) / 20  # what grows are activations of the body


def test_bfloat16_models_are_scored_in_float32():
    """Trap 3: gather, then float32. A softmax in bf16 is off by several hundredths of a nat."""
    rollouts, view = case()
    denoiser = TinyDenoiser(vocabulary=64).bfloat16()
    with torch.no_grad():
        exact = published(denoiser, view, rollouts.completion)[0]
        ours = token_scores(denoiser, view, rollouts.completion).logp
        where = torch.arange(view.noised.numel())
        logits = denoiser(view.noised, view.attention, where).view(*view.noised.shape, -1)[view.source]
        faulty = logits[:, -rollouts.completion.shape[1] :].log_softmax(-1)
        faulty = faulty.gather(-1, rollouts.completion[..., None])[..., 0] * view.scored
    assert ours.dtype == torch.float32
    assert (ours - exact).abs().max() < 1e-5
    assert (faulty - exact).abs().max() > 5e-3


def test_left_padding_changes_nothing():
    """Trap 6: two prompts of unequal length in one batch."""
    rollouts, view = case(groups=3)
    denoiser = TinyDenoiser().double()
    assert not rollouts.prompt_valid.all()
    scores = token_scores(denoiser, view, rollouts.completion).logp
    for group in range(3):
        part = cut(view, group * 4, group * 4 + 4)
        pads = int((~part.attention[0]).sum())
        bare = type(part)(
            noised=part.noised[:, pads:],
            attention=part.attention[:, pads:],
            source=part.source,
            row=part.row,
            scored=part.scored,
            weight=part.weight,
        )
        alone = token_scores(denoiser, bare, rollouts.completion[group * 4 : group * 4 + 4]).logp
        assert torch.allclose(alone, scores[group * 4 : group * 4 + 4], atol=1e-12)
        if pads:
            faulty = type(part)(
                noised=part.noised,
                attention=torch.ones_like(part.attention),
                source=part.source,
                row=part.row,
                scored=part.scored,
                weight=part.weight,
            )
            attended = token_scores(denoiser, faulty, rollouts.completion[group * 4 : group * 4 + 4]).logp
            assert not torch.allclose(alone, attended, atol=1e-3)


def test_a_forbidden_token_has_no_influence_on_the_entropy():
    rollouts, view = case()
    denoiser = TinyDenoiser()
    denoiser.head.bias.data[MASK] = -torch.inf
    scores = token_scores(denoiser, view, rollouts.completion, entropy=True)
    assert scores.entropy.isfinite().all()
    assert scores.entropy.max() <= torch.log(torch.tensor(7.0)) + 1e-5


def test_nothing_to_score_still_runs_one_forward_and_has_a_zero_gradient():
    rollouts, view = case(groups=1)
    empty = type(view)(
        noised=view.noised,
        attention=view.attention,
        source=view.source[:0],
        row=view.row[:0],
        scored=view.scored[:0],
        weight=view.weight[:0],
    )
    denoiser = TinyDenoiser()
    scores = token_scores(denoiser, empty, rollouts.completion[:0], entropy=True)
    scores.logp.sum().backward()
    assert denoiser.inputs == [1]
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in denoiser.parameters())


def test_global_generators_are_untouched():
    """Trap 2: reseeding inside the likelihood makes everything else repeat."""
    rollouts, view = case(MeanField(prompt_mask=0.5))

    def faulty():
        torch.manual_seed(42)
        return MeanField(prompt_mask=0.5)(rollouts, torch.zeros(12), torch.arange(12), MASK)

    with pytest.raises(AssertionError, match="global generator"), global_generators_untouched():
        faulty()
    denoiser = TinyDenoiser()
    with global_generators_untouched():
        token_scores(denoiser, view, rollouts.completion, entropy=True).logp.sum().backward()


def test_out_of_memory_says_where_and_what_to_do():
    def full(tokens, attention, where, read=None):
        raise torch.OutOfMemoryError("CUDA out of memory")

    rollouts, view = case()
    with pytest.raises(torch.OutOfMemoryError, match=r"token_scores at B=3, T=17.*--score-rows"):
        token_scores(full, view, rollouts.completion)
