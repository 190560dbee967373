"""A sampler with a commit rule of its own, on top of the library's denoising loop.

torch is imported when the sampler is called, so that `igpo plugins` and `--help` can read the options without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from igpo_sampling import Decoding

if TYPE_CHECKING:
    from torch import Tensor

    from igpo_sampling import Canvas, Denoiser, Sample

STREAM = 1952
"""A stream of random numbers beside the loop's own; any number of one's own will do."""


@frozen(kw_only=True)
class CoinSampler(Decoding):
    """Each blank flips a coin weighted by its confidence; heads commits it."""

    patience: float = field(default=1.0, validator=validators.ge(0.0))
    """Exponent of the confidence: 0 commits a whole block at once, large values one token a step."""

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
        """The surest blank is committed in any case, so a row takes between one forward a block and one a token."""
        import torch

        from igpo_sampling import commit, loop, noise

        seeds = seeds.to(canvas.tokens.device)

        def flip(confidence: Tensor, rows: Tensor, step: Tensor) -> Tensor:
            """confidence (R, L), -inf where a cell is not open; rows and step (R,) -> (R, L) bool: the cells to commit."""
            position = torch.arange(canvas.width, device=seeds.device)
            coin = noise.uniform(seeds[rows, None], step[:, None], position, STREAM)
            heads = coin < confidence.clamp(min=0) ** self.patience
            return heads | commit.top(confidence, torch.ones_like(rows))

        return loop.denoise(
            denoiser,
            canvas,
            seeds,
            self,
            confidence=commit.probability,
            rule=flip,
            mask_id=mask_id,
            eos_id=eos_id,
            watch=watch,
        )
