"""A small LLaDA, made from nothing: for demos, tests and ideas.

The same network class, so what it saves loads through `LLaDA(path=...)`. What matters is the start: with token
embeddings at the usual std .02 a model this small learns the demo's task many times slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from igpo_sampling.denoiser import Loaded

if TYPE_CHECKING:
    import torch


@frozen(kw_only=True)
class Tiny:
    """A small model of LLaDA's architecture, made from nothing."""

    width: int = field(default=64, validator=validators.ge(2))
    """Hidden size."""
    layers: int = field(default=3, validator=validators.ge(1))
    """Transformer blocks."""
    heads: int = field(default=4, validator=validators.ge(1))
    """Attention heads; width / heads must be even."""
    inner: int = field(default=128, validator=validators.ge(1))
    """Hidden size of the feed-forward layers."""
    embedding_std: float = field(default=0.5, validator=validators.gt(0.0))
    """Standard deviation of the token embeddings at the start."""
    path: str | None = None
    """Load this directory instead of making a new model."""

    def __attrs_post_init__(self) -> None:
        if self.width % (2 * self.heads):
            raise ValueError(f"width = {self.width} must be a multiple of 2 x heads = {2 * self.heads}.")

    def __call__(
        self,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        vocabulary: Sequence[str] | None = None,
        seed: int = 0,
    ) -> Loaded:
        """A model for `vocabulary` (None: bytes); its weights depend on the seed and on nothing else."""
        from igpo_sampling.models.llada import LLaDA, ready

        if self.path is not None:
            return LLaDA(path=self.path)(device=device, dtype=dtype)
        import torch

        from igpo_sampling.models import tokenizers
        from igpo_sampling.models.llada_network import LLaDAConfig, LLaDAForDiffusion

        tokenizer = tokenizers.utf8() if vocabulary is None else tokenizers.words(vocabulary)
        config = LLaDAConfig(
            d_model=self.width,
            n_layers=self.layers,
            n_heads=self.heads,
            n_kv_heads=self.heads,
            mlp_hidden_size=self.inner,
            rope_theta=10000.0,
            vocab_size=len(tokenizer),
            embedding_size=len(tokenizer),
            mask_token_id=tokenizer.mask_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.device("meta"):
            network = LLaDAForDiffusion(config)
        network.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in network.named_parameters():
                if weight.ndim == 1:
                    weight.fill_(1.0)
                else:
                    std = self.embedding_std if name.endswith("wte.weight") else weight.shape[1] ** -0.5
                    weight.normal_(0.0, std, generator=generator)
        return ready(network.to(device=device, dtype=dtype), tokenizer)
