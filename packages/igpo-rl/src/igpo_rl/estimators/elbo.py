"""The evidence lower bound of log pi(o): what masked diffusion models are trained on, as the score of a whole row."""

# ruff: noqa: ARG002 - a plug-in is given all that its kind is, needed or not

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import field, frozen, validators

from igpo_rl import later
from igpo_rl.records import Rollouts, View
from igpo_rl.seeds import uniforms
from igpo_rl.views import Level, plan, random_ranks

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")


@frozen(kw_only=True)
class ELBO:
    """Estimate of the ELBO, the mean over all orders of the log-prob of writing o in that order; for sequence losses.

    It equals the integral over t in (0, 1) of E[sum of the masked tokens' log-probs] / t, each of them masked with chance
    t (LLaDA, arXiv 2502.09992, eq. 3), and is below the log of the mean over orders. No inequality with one order holds.
    Antithetic pairs (ESPO, arXiv 2512.03759) have no bias; n Gauss points in t (GDPO, arXiv 2510.08554) are exact in the
    mean for up to 2 n tokens, and have the bias of quadrature beyond.
    """

    rule: Literal["antithetic", "gauss"] = field(
        default="antithetic", validator=validators.in_(("antithetic", "gauss"))
    )
    """antithetic: a mask and its complement, without bias (ESPO); gauss: fixed noise levels, of less variance (GDPO)."""
    samples: int = field(default=1, validator=validators.ge(1))
    """Pairs of masks (two forwards each), or Gauss points (one each)."""

    level: ClassVar[Level] = "sequence"

    def __call__(self, rollouts: Rollouts, advantage: Tensor, seeds: Tensor, mask_id: int) -> View:
        """What follows the first EOS is always masked: a row's score is that of its tokens up to there."""
        masked, weight = (self._pairs if self.rule == "antithetic" else self._points)(rollouts.valid, seeds)
        return plan(rollouts, masked | ~rollouts.valid[:, None], weight, mask_id)

    def _pairs(self, valid: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """k ~ U{0 .. n} of n tokens and the n - k others; the k's of several pairs are spread evenly.

        Masks of k tokens count (n + 1) / k: for k >= 1 the sum over k of 1 / (n + 1) times that is the sum of 1 / k that
        the ELBO has (section 3 there, and LLaDA, eq. 6).
        """
        n = valid.sum(1, keepdim=True)
        start = uniforms(seeds, 1, stream=0).double()
        masks, counts = [], []
        for pair in range(self.samples):
            k = (((start + pair / self.samples) % 1.0) * (n + 1)).floor().clamp(max=n).long()
            first = random_ranks(seeds, valid, stream=1 + pair) < k
            masks += [first, ~first]
            counts += [k, n - k]
        weight = (n + 1)[:, None] / (2 * self.samples * torch.stack(counts, 1))
        return torch.stack(masks, 1), weight.float()

    def _points(self, valid: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Each token is masked with chance t_j, and counts w_j / t_j."""
        points, weights = gauss_points(self.samples)
        u = torch.stack([uniforms(seeds, valid.shape[1], stream=point) for point in range(self.samples)], 1)
        return u < points.to(u)[:, None], (weights / points).to(u)[:, None]


def gauss_points(count: int) -> tuple[Tensor, Tensor]:
    """(count,) float64 points and weights of Gauss-Legendre quadrature on (0, 1) (Golub, Welsch, 1969)."""
    k = torch.arange(1, count, dtype=torch.float64)
    beside = k / (4 * k * k - 1).sqrt()
    points, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return (points + 1) / 2, vectors[0] ** 2
