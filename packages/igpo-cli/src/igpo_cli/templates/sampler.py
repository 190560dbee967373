"""A sampler that starts carefully and speeds up.

A sampler fills the blanks of a canvas. The library's loop does the work: it asks a rule which blanks are committed at a
step, and leaves the others masked for the next one. Block, temperature, guidance and caches come with `Decoding`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from igpo_sampling import Decoding
from igpo_sampling.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from igpo_sampling import Canvas, Denoiser, Sample


@frozen(kw_only=True)
class Mine(Decoding):
    """The surest blanks, one at the first step and more at each later one."""

    growth: float = field(default=1.5, validator=validators.ge(1.0))
    """Factor from step to step on how many are committed; 1 commits one at each."""

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
        """seeds (B,) long: a row's draws depend on its own seed alone."""
        from igpo_sampling import commit, loop

        def rule(confidence: Tensor, rows: Tensor, step: Tensor) -> Tensor:  # noqa: ARG001
            """confidence (R, L), -inf where a cell is not open; rows and step (R,) -> (R, L) bool: the cells to commit."""
            return commit.top(confidence, (self.growth ** step.double()).clamp(max=confidence.shape[1]).long())

        return loop.denoise(
            denoiser,
            canvas,
            seeds,
            self,
            confidence=commit.probability,
            rule=rule,
            mask_id=mask_id,
            eos_id=eos_id,
            watch=watch,
        )


@hookimpl
def igpo_samplers() -> dict[str, str]:
    return {"mine": "igpo_cli.templates.sampler:Mine"}
