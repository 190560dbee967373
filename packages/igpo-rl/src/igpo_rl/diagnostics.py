"""What hints do to the policy and its gradient: measured beside the objective, never part of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from igpo_rl import later
from igpo_rl.records import Denoiser, Rollouts
from igpo_rl.scores import most_logits
from igpo_rl.views import attended

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = later.load("torch")

Gather = Callable[["Tensor"], "Tensor"]


class GradientParts:
    """The gradient of one inner update in two parts, that of hint tokens and that of the policy's own.

    A loss depends on the weights through its log-probs alone, so its gradient is a sum over tokens. Costs two backward
    passes a micro-batch, and memory for two gradients.
    """

    def __init__(self, policy: Module) -> None:
        self.weights = [weight for weight in policy.parameters() if weight.requires_grad]
        self.sums: dict[str, list[Tensor]] = {}

    def add(self, value: Tensor, logp: Tensor, hint: Tensor) -> None:
        """One micro-batch: its value, and the (b, L) log-probs that it was computed from. The graph is kept."""
        (by_token,) = torch.autograd.grad(value, logp, retain_graph=True)
        for name, tokens in (("own", ~hint), ("hint", hint)):
            found = torch.autograd.grad(
                logp, self.weights, by_token * tokens, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            known = self.sums.get(name)
            self.sums[name] = list(found) if known is None else [a + b for a, b in zip(known, found, strict=True)]

    def norms(self, gather: Gather) -> dict[str, float]:
        """Contributions of this rank to the norms over all ranks; starts anew."""
        metrics = {}
        for name, parts in self.sums.items():
            squares, ranks = 0.0, 1
            for part in parts:
                table = gather(part.flatten())
                ranks = len(table)
                squares += float(table.double().sum(0).square().sum())
            metrics[f"gradient/{name}"] = squares**0.5 / ranks
        self.sums = {}
        return metrics


def estimate_variance(means: Sequence[Tensor], gather: Gather) -> dict[str, float]:
    """How much a row's mean log-prob a token differs between the views of a phase: variance, nats squared, mean over rows.

    `means`: (B,) of the old policy on the view of each inner update. One view says nothing.
    """
    if len(means) < 2:
        return {}
    table = torch.stack(list(means)).double()
    rows = (table - table.mean(0)).square().sum(0) / (len(means) - 1)
    local = torch.stack([rows.sum(), rows.new_tensor(len(rows))])
    count = float(gather(local)[:, 1].sum())
    return {"policy/estimate_variance": float(local[0]) / count} if count else {}


def hint_divergence(policy: Denoiser, rows: Rollouts, mask_id: int) -> Tensor:
    """(2,) float64: sum of KL(pi(o | q) || pi(o | q, hint)), nats, over the positions that are no hints in rows that
    have some, and how many these are.

    Both are the marginals of a canvas without any other token of the completion. One forward over 2 B inputs.
    """
    own = rows.valid & ~rows.given & rows.given.any(1, keepdim=True)
    blank = torch.full_like(rows.completion, mask_id)
    hinted = rows.completion.where(rows.given, mask_id)
    tokens = torch.cat([torch.cat([rows.prompt, each], 1) for each in (blank, hinted)])
    row, slot = own.nonzero(as_tuple=True)
    where = row * tokens.shape[1] + rows.prompt.shape[1] + slot

    def read(head: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        without, shown = hidden.chunk(2) if len(hidden) else (hidden, hidden)
        size = max(1, most_logits(hidden.device) // max(1, head(hidden[:0]).shape[-1]) // 2)
        total = hidden.new_zeros((), dtype=torch.float64)
        for first in range(0, len(without), size):
            one, other = (
                logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
                for logits in (head(without[first : first + size]), head(shown[first : first + size]))
            )
            # 0 where both forbid a token.
            total += (one.exp() * (one - other)).where(one > -torch.inf, 0.0).sum(dtype=torch.float64)
        return total

    with torch.no_grad():
        cells = torch.cat([where, where + rows.completion.shape[0] * tokens.shape[1]])
        total: Tensor = policy(tokens, attended(rows).repeat(2, 1), cells, read)
    return torch.stack([total, own.sum().double()])
