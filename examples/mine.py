"""One idea in one file: hints are the beginning of the solution, and less of it is shown as training goes on.

igpo train --plugin examples/mine.py --injection fading-prefix --injection.share 0.8
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from attrs import field, frozen, validators

from igpo_rl.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from igpo_rl import Problem


@frozen(kw_only=True)
class FadingPrefix:
    """The first chunks of the solution, fewer of them as training goes on."""

    share: float = field(default=0.6, validator=[validators.ge(0.0), validators.le(1.0)])
    """Share of the chunks that is shown at the first step; it falls to 0 towards the last one."""

    def __call__(
        self,
        problem: Problem,  # noqa: ARG002 an injection is given all that there is
        chunks: Sequence[tuple[int, int]],
        rows: int,
        progress: float,
        rng: Random,  # noqa: ARG002
        memory: dict[str, Any],  # noqa: ARG002
    ) -> Tensor | None:
        """(rows, K) bool: the same first chunks for every row; None where there is nothing to show."""
        import torch

        from igpo_rl.injections import hint_count

        if not chunks:
            return None
        shown = hint_count(self.share * (1 - progress), len(chunks))
        return (torch.arange(len(chunks)) < shown).repeat(rows, 1)


@hookimpl
def igpo_injections() -> dict[str, str]:
    return {"fading-prefix": "mine:FadingPrefix"}
