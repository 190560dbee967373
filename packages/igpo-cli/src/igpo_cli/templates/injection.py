"""Hints from the middle of the worked solution.

An injection is asked once for every group without a correct sample, and says which chunks of the solution each of the
group's rows is shown in the second rollout. None means that there is no second rollout.
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
class Mine:
    """The middle of the solution; its beginning and its end are left to the policy."""

    share: float = field(default=0.4, validator=[validators.ge(0.0), validators.le(1.0)])
    """Share of the chunks that is shown."""

    def __call__(
        self,
        problem: Problem,  # noqa: ARG002 an injection is given all that there is
        chunks: Sequence[tuple[int, int]],
        rows: int,
        progress: float,  # noqa: ARG002
        rng: Random,  # noqa: ARG002
        memory: dict[str, Any],  # noqa: ARG002
    ) -> Tensor | None:
        """(rows, K) bool: the same chunks for every row; None where there is nothing to show."""
        import torch

        from igpo_rl.injections import hint_count

        if not chunks:
            return None
        count = hint_count(self.share, len(chunks))
        first = (len(chunks) - count) // 2
        place = torch.arange(len(chunks))
        return ((place >= first) & (place < first + count)).repeat(rows, 1)


@hookimpl
def igpo_injections() -> dict[str, str]:
    return {"mine": "igpo_cli.templates.injection:Mine"}
