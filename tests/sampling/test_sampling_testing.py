"""The conformance checks notice what they promise to notice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attrs import evolve, frozen

from igpo_sampling import LLaDASampler, Loaded, Sample, Tiny
from igpo_sampling.testing import TableDenoiser, check_denoiser, check_model, check_sampler

GOOD = LLaDASampler(steps=9, block=10, temperature=1.0)


def spoilt(result: Sample, canvas: Any, seeds: Any, how: str) -> Sample:
    completion, order = result.completion.clone(), result.order.clone()
    hint = canvas.given[:, -canvas.width :]
    if how == "given tokens never change":
        completion[hint] = 0
    elif how == "no mask is left or sampled":
        completion[~hint & (order == 0)] = 18
    elif how == "tokens are of the vocabulary":
        completion[~hint & (order == 0)] = 19
    elif how == "order is -1 on given tokens":
        order[hint] = 0
    elif how == "each forward of a row commits something":
        return evolve(result, forwards=result.forwards + 1)
    elif how == "confidences are finite":
        return evolve(result, confidence=result.confidence / 0)
    elif how == "the completion is":
        completion = completion[:, 1:]
    elif how == "global random state":
        torch.rand(1)
    elif how == "the canvas is not changed":
        canvas.completion[:] = 0
    elif how == "the same again":
        completion[~hint] = torch.randint(17, (1,), generator=spoilt.generator).item()
    return evolve(result, completion=completion, order=order)


spoilt.generator = torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    "promise",
    [
        "given tokens never change",
        "no mask is left or sampled",
        "tokens are of the vocabulary",
        "order is -1 on given tokens",
        "each forward of a row commits something",
        "confidences are finite",
        "the completion is",
        "global random state",
        "the canvas is not changed",
        "the same again",
    ],
)
def test_a_sampler_that_breaks_a_promise_is_caught(promise):
    def sampler(denoiser: Any, canvas: Any, seeds: Any, **options: Any) -> Sample:
        return spoilt(GOOD(denoiser, canvas, seeds, **options), canvas, seeds, promise)

    with pytest.raises(AssertionError, match=promise):
        check_sampler(sampler)


def test_draws_that_depend_on_the_batch_are_caught():
    """One stream over rows instead of a seed a row."""

    def sampler(denoiser: Any, canvas: Any, seeds: Any, **options: Any) -> Sample:
        return GOOD(denoiser, canvas, torch.arange(len(seeds)), **options)

    with pytest.raises(AssertionError, match="alone and in any order"):
        check_sampler(sampler)


class Spoilt(TableDenoiser):
    def __init__(self, how: str) -> None:
        super().__init__(11)
        self.how = how

    def forward(self, tokens: Any, attention: Any, where: Any, read: Any = None, window: Any = None) -> Any:
        if self.how == "padding is never attended":
            attention = torch.ones_like(attention)
        elif self.how == "logits follow `where`":
            where = where.sort().values
        elif self.how == "rows do not see each other":
            tokens = tokens + tokens[:1].sum() * (len(tokens) > 1)
        elif self.how == "global random state":
            torch.rand(1)
        elif self.how == "no causal mask":
            last = torch.arange(tokens.shape[1]) == tokens.shape[1] - 1
            attention = attention & ~last
        elif self.how == "what `read` returns":
            read = None
        result = super().forward(tokens, attention, where, read, window)
        return result[:, 1:] if self.how == "logits are" else result


@pytest.mark.parametrize(
    "promise",
    [
        "padding is never attended",
        "logits follow `where`",
        "rows do not see each other",
        "global random state",
        "no causal mask",
        "what `read` returns",
        "logits are",
    ],
)
def test_a_denoiser_that_breaks_a_promise_is_caught(promise):
    with pytest.raises(AssertionError, match=promise):
        check_denoiser(Spoilt(promise), 11)


def test_the_table_conforms():
    check_denoiser(TableDenoiser(11), 11, tolerance=0.0)


@frozen(kw_only=True)
class SpoiltTiny:
    """A small model with one fault."""

    how: str
    path: str | None = None

    def __call__(self, *, seed: int = 0, **options: Any) -> Loaded:
        if self.how == "global random state":
            torch.rand(1)
        elif self.how == "the same seed":
            seed = torch.empty((), dtype=torch.long).random_(generator=spoilt.generator).item()
        loaded = Tiny(width=16, layers=2, path=self.path)(seed=seed, **options)
        if self.how == "eval mode":
            loaded.denoiser.train()
        elif self.how == "neither EOS nor padding":
            return evolve(loaded, pad_id=loaded.mask_id)
        elif self.how == "are of the":
            return evolve(loaded, mask_id=10_000)
        elif self.how == "every linear layer":
            return evolve(loaded, linear=loaded.linear[1:])
        elif self.how == "names modules":
            return evolve(loaded, linear=("head.of.nobody",))
        elif self.how == "loads again" and self.path:
            with torch.no_grad():
                next(loaded.denoiser.parameters()).add_(1.0)
        return loaded


@pytest.mark.parametrize(
    "promise",
    [
        "global random state",
        "the same seed",
        "eval mode",
        "neither EOS nor padding",
        "are of the",
        "every linear layer",
        "names modules",
        "loads again",
    ],
)
def test_a_model_that_breaks_a_promise_is_caught(promise):
    with pytest.raises(AssertionError, match=promise):
        check_model(SpoiltTiny(how=promise), ("a", "b", "c"))


def test_a_model_made_from_nothing_conforms():
    check_model(SpoiltTiny(how=""), ("a", "b", "c"))
