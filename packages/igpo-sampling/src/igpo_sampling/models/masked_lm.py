"""Masked language models of transformers as diffusion models: their pre-training is one step of the diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from igpo_sampling.denoiser import Loaded
from igpo_sampling.models.stored import Stored

if TYPE_CHECKING:
    import torch


@frozen(kw_only=True)
class MaskedLM(Stored):
    """BERT, RoBERTa, ModernBERT, EuroBERT and dllm's BERT-Chat; other masked language models with full logits."""

    eos_id: int | None = field(default=None, validator=validators.optional(validators.ge(0)))
    """The token that ends a text; none: what config or tokenizer say, else the separator."""
    pad_id: int | None = field(default=None, validator=validators.optional(validators.ge(0)))
    """The token on padding; none: what config or tokenizer say, else the one that ends a text."""

    def __call__(
        self,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        vocabulary: Sequence[str] | None = None,  # noqa: ARG002
        seed: int = 0,  # noqa: ARG002
    ) -> Loaded:
        """Load in `dtype`, or as stored. A checkpoint has its own vocabulary and needs no seed."""
        from igpo_sampling.models import checkpoints, masked_lm_network

        checkpoint = checkpoints.read_checkpoint(self.path)
        return masked_lm_network.load(
            checkpoint,
            device=device,
            dtype=dtype,
            special={"mask": self.mask_id, "eos": self.eos_id, "pad": self.pad_id},
            compiled=self.compile,
        )
