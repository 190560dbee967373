"""The named settings of the denoising loop.

Nothing heavy is imported here, so that options can be listed without torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from attrs import field, frozen, validators

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
        """seeds (B,) long: a row's draws come from its own seed, so they do not depend on the batch."""
        ...


@frozen(kw_only=True)
class LLaDASampler:
    """Block by block, the most probable tokens first (low-confidence remasking; LLaDA, 2502.09992)."""

    steps: int = field(default=128, validator=validators.ge(1))
    """Denoising steps of the whole completion, shared by its blocks."""
    block: int = field(default=32, validator=validators.ge(1))
    """Tokens of a block; the last block may be short."""
    temperature: float = field(default=1.2, validator=validators.ge(0.0))
    """Sampling temperature; 0 takes the most probable token."""
    stop_at_eos: bool = False
    """Fill a row with EOS once a whole block is EOS and no hint follows."""
    max_rows: int = field(default=64, validator=validators.ge(1))
    """Rows of one forward; more rows are sampled in turns."""

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
        from igpo_sampling import commit, loop

        return loop.denoise(
            denoiser,
            canvas,
            seeds,
            block=self.block,
            temperature=self.temperature,
            confidence=commit.probability,
            rule=commit.scheduled(canvas, self.steps, self.block),
            mask_id=mask_id,
            eos_id=eos_id if self.stop_at_eos else None,
            max_rows=self.max_rows,
            watch=watch,
        )


@frozen(kw_only=True)
class RandomSampler:
    """Block by block, the tokens of each step chosen at random."""

    steps: int = field(default=128, validator=validators.ge(1))
    """Denoising steps of the whole completion, shared by its blocks."""
    block: int = field(default=32, validator=validators.ge(1))
    """Tokens of a block; the last block may be short."""
    temperature: float = field(default=1.2, validator=validators.ge(0.0))
    """Sampling temperature; 0 takes the most probable token."""
    stop_at_eos: bool = False
    """Fill a row with EOS once a whole block is EOS and no hint follows."""
    max_rows: int = field(default=64, validator=validators.ge(1))
    """Rows of one forward; more rows are sampled in turns."""

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
        from igpo_sampling import commit, loop

        return loop.denoise(
            denoiser,
            canvas,
            seeds,
            block=self.block,
            temperature=self.temperature,
            confidence=commit.chance,
            rule=commit.scheduled(canvas, self.steps, self.block),
            mask_id=mask_id,
            eos_id=eos_id if self.stop_at_eos else None,
            max_rows=self.max_rows,
            watch=watch,
        )
