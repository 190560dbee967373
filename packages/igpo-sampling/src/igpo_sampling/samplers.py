"""The named settings of the denoising loop.

Nothing heavy is imported here, so that options can be listed without torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NotRequired, Protocol, TypedDict, Unpack

from attrs import field, frozen, validators

from igpo_sampling.decoding import AT_LEAST_ONE, Decoding, Scheduled

if TYPE_CHECKING:
    from torch import Tensor

    from igpo_sampling.canvas import Canvas
    from igpo_sampling.denoiser import Denoiser
    from igpo_sampling.loop import Sample


class Sampler(Protocol):
    """Plug-in kind `sampler`: fills the blanks of a canvas."""

    def __call__(
        self,
        denoiser: Denoiser,
        canvas: Canvas,
        seeds: Tensor,
        *,
        mask_id: int,
        eos_id: int,
        watch: Callable[[int, Tensor], None] | None = None,
    ) -> Sample:
        """seeds (B,) long: a row's draws come from its own seed, so they do not depend on the batch.

        `watch(step, tokens (B, T))` is called after each forward.
        """
        ...


class Rest(TypedDict):
    """The keywords of `Sampler`, passed on as they come."""

    mask_id: int
    eos_id: int
    watch: NotRequired[Callable[[int, Tensor], None] | None]


@frozen(kw_only=True)
class LLaDASampler(Scheduled):
    """Block by block, the most probable tokens first (low-confidence remasking; LLaDA, 2502.09992)."""

    def __call__(self, denoiser: Denoiser, canvas: Canvas, seeds: Tensor, **rest: Unpack[Rest]) -> Sample:
        """At temperature 0 what the published code gives, where that proposes no mask token."""
        from igpo_sampling import commit, loop

        rule = commit.scheduled(canvas, self.steps, self.block)
        return loop.denoise(denoiser, canvas, seeds, self, confidence=commit.probability, rule=rule, **rest)


@frozen(kw_only=True)
class RandomSampler(Scheduled):
    """Block by block, the tokens of each step chosen at random."""

    def __call__(self, denoiser: Denoiser, canvas: Canvas, seeds: Tensor, **rest: Unpack[Rest]) -> Sample:
        """The confidences of the sample are the random numbers that decided."""
        from igpo_sampling import commit, loop

        rule = commit.scheduled(canvas, self.steps, self.block)
        return loop.denoise(denoiser, canvas, seeds, self, confidence=commit.chance, rule=rule, **rest)


@frozen(kw_only=True)
class MarginSampler(Scheduled):
    """Block by block, first where the best token leads the second by most (2502.06768)."""

    def __call__(self, denoiser: Denoiser, canvas: Canvas, seeds: Tensor, **rest: Unpack[Rest]) -> Sample:
        """The confidences of the sample are the leads, in probability."""
        from igpo_sampling import commit, loop

        rule = commit.scheduled(canvas, self.steps, self.block)
        return loop.denoise(denoiser, canvas, seeds, self, confidence=commit.margin, rule=rule, **rest)


@frozen(kw_only=True)
class EntropySampler(Scheduled):
    """Block by block, first where the distribution has the least entropy."""

    def __call__(self, denoiser: Denoiser, canvas: Canvas, seeds: Tensor, **rest: Unpack[Rest]) -> Sample:
        """The confidences of the sample are negative entropies, in nats."""
        from igpo_sampling import commit, loop

        rule = commit.scheduled(canvas, self.steps, self.block)
        return loop.denoise(denoiser, canvas, seeds, self, confidence=commit.entropy, rule=rule, **rest)


@frozen(kw_only=True)
class DreamSampler(Scheduled):
    """Dream's own schedule and confidences (2508.15487), over the whole completion unless it has blocks."""

    block: int | None = field(default=None, validator=AT_LEAST_ONE)
    """Tokens of a block, filled one block after the other; the last may be short. none: the whole completion is one."""
    by: Literal["probability", "margin", "entropy"] = field(
        default="probability", validator=validators.in_(("probability", "margin", "entropy"))
    )
    """What makes a token sure, after temperature, top-p and top-k: Dream's maskgit_plus, topk_margin or entropy."""
    alg_temp: float = field(default=0.0, validator=validators.ge(0.0))
    """Temperature of the choice of cells; 0 takes the surest."""

    def __call__(self, denoiser: Denoiser, canvas: Canvas, seeds: Tensor, **rest: Unpack[Rest]) -> Sample:
        """Per row, where the published code commits the mean number of its batch; a step that would commit none is left out."""
        from igpo_sampling import commit, loop

        confidence = {"probability": commit.probability, "margin": commit.margin, "entropy": commit.entropy}[self.by]
        rule = commit.scheduled(canvas, self.steps, self.block, commit.dream_share)
        if self.alg_temp:
            rule = commit.stirred(rule, self.alg_temp, seeds.to(canvas.tokens.device))
        return loop.denoise(denoiser, canvas, seeds, self, confidence=confidence, rule=rule, tempered=True, **rest)


@frozen(kw_only=True)
class ThresholdSampler(Decoding):
    """All tokens of a block that are probable enough, at least the most probable one (Fast-dLLM, 2505.22618)."""

    threshold: float = field(default=0.9, validator=[validators.ge(0.0), validators.le(1.0)])
    """Probability from which a token is committed."""

    def __call__(self, denoiser: Denoiser, canvas: Canvas, seeds: Tensor, **rest: Unpack[Rest]) -> Sample:
        """As many forwards as it takes: between one a block and one a token."""
        from igpo_sampling import commit, loop

        rule = commit.at_least(self.threshold)
        return loop.denoise(denoiser, canvas, seeds, self, confidence=commit.probability, rule=rule, **rest)


@frozen(kw_only=True)
class FactorSampler(Decoding):
    """The more tokens at once, the surer each has to be: (n + 1) (1 - p_n) < factor (Fast-dLLM, 2505.22618)."""

    factor: float = field(default=1.0, validator=validators.gt(0.0))
    """Larger commits more at once."""

    def __call__(self, denoiser: Denoiser, canvas: Canvas, seeds: Tensor, **rest: Unpack[Rest]) -> Sample:
        """The paper's rule; the published code also commits a token that fails when all others of the block pass."""
        from igpo_sampling import commit, loop

        rule = commit.factor(self.factor)
        return loop.denoise(denoiser, canvas, seeds, self, confidence=commit.probability, rule=rule, **rest)


@frozen(kw_only=True)
class EntropyBoundSampler(Decoding):
    """As many tokens, by ascending entropy, as an entropy budget allows (EB-sampler, 2505.24857)."""

    gamma: float = field(default=0.1, validator=validators.ge(0.0))
    """Nats that the entropies of the tokens of a step, without the largest, may add up to; 0 commits one at a time."""

    def __call__(self, denoiser: Denoiser, canvas: Canvas, seeds: Tensor, **rest: Unpack[Rest]) -> Sample:
        """The confidences of the sample are negative entropies, in nats."""
        from igpo_sampling import commit, loop

        rule = commit.entropy_bound(self.gamma)
        return loop.denoise(denoiser, canvas, seeds, self, confidence=commit.entropy, rule=rule, **rest)


@frozen(kw_only=True)
class KLASSSampler(Decoding):
    """All tokens that are probable and whose distributions have come to rest, at least the most probable (KLASS, 2511.05664)."""

    threshold: float = field(default=0.9, validator=[validators.ge(0.0), validators.le(1.0)])
    """Probability from which a token is committed."""
    kl: float = field(default=0.01, validator=validators.ge(0.0))
    """Nats by which a distribution at rest differs from that of the step before, at most."""
    history: int = field(default=2, validator=validators.ge(1))
    """Steps in a row for which it has been at rest."""

    def __call__(self, denoiser: Denoiser, canvas: Canvas, seeds: Tensor, **rest: Unpack[Rest]) -> Sample:
        """History begins anew with each block, as only the blanks of the current one are read."""
        from igpo_sampling import commit, loop

        steady = commit.Steady(canvas.blanks, least=self.threshold, kl=self.kl, history=self.history)
        return loop.denoise(
            denoiser, canvas, seeds, self, confidence=commit.probability, rule=steady, observe=steady.observe, **rest
        )


@frozen(kw_only=True)
class LeftToRightSampler(Decoding):
    """Strictly in order, one token a forward: the policy that JustGRPO scores (2601.15165)."""

    block: int | None = field(default=1, validator=AT_LEAST_ONE)
    """Tokens of a block: what must be EOS for a row to stop, and what a cache is kept for."""

    def __call__(self, denoiser: Denoiser, canvas: Canvas, seeds: Tensor, **rest: Unpack[Rest]) -> Sample:
        """Hints to the right are seen, as everywhere."""
        from igpo_sampling import commit, loop

        return loop.denoise(denoiser, canvas, seeds, self, confidence=commit.probability, rule=commit.leftmost, **rest)
