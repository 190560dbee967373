"""From a chunk of logits to log-probs, entropies and hits, with a backward pass that needs one buffer.

Imported on use: it subclasses a torch class.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Readout(torch.autograd.Function):
    """log-softmax, gathered: d logp[i] / d logits[r] = onehot(token i) - softmax(logits[r]) where cell i reads row r."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, reads: Tensor, token: Tensor, entropy: bool, hits: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """logits (n, V) in at least float32, reads (c,) into its rows, token (c,) -> logp (c,), entropy (n,), hit (c,)."""
        top = logits.amax(-1, keepdim=True)
        # Clamped so that 0 * log 0 is 0 even where a denoiser forbids a token with -inf.
        shifted = (logits - top).clamp_(min=-1e4)
        picked = shifted[reads, token]
        weight = shifted.exp() if entropy else shifted.exp_()
        total = weight.sum(-1)
        logp = picked - total.log()[reads]
        uncertainty = total.log() - weight.mul_(shifted).sum(-1) / total if entropy else total.new_empty(0)
        hit = picked == 0 if hits else torch.empty(0, dtype=torch.bool, device=logits.device)
        ctx.save_for_backward(logits, top[:, 0] + total.log(), reads, token)
        ctx.mark_non_differentiable(uncertainty, hit)
        return logp, uncertainty, hit

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, normaliser, reads, token = ctx.saved_tensors
        by_cell = gradients[0]
        by_row = torch.zeros_like(normaliser).index_add_(0, reads, by_cell)
        result = (logits - normaliser[:, None]).exp_().mul_(-by_row[:, None])
        return result.index_put_((reads, token), by_cell, accumulate=True), None, None, None, None
