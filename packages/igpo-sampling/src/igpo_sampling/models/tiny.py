"""A small LLaDA, made from nothing: for demos, tests and ideas.

The same network class, so what it saves loads through `LLaDA(path=...)`. What matters is the start: large token
embeddings with a part that all tokens share, by which attention can look at places whatever stands there, small
matrices elsewhere, and rotations that tell neighbours apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
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
    embedding_std: float = field(default=0.25, validator=validators.gt(0.0))
    """Standard deviation of the token embeddings at the start, and of the part that they share."""
    matrix_std: float = field(default=0.02, validator=validators.gt(0.0))
    """Standard deviation of all other matrices at the start."""
    rope_theta: float = field(default=12.0, validator=validators.gt(1.0))
    """Base of the rotary positions; small, so that neighbours on a short canvas can be told apart."""
    tokenizer: str | None = None
    """Directory of a tokenizer to read text with; none: a token for each word of the task, or for each byte."""
    path: str | None = None
    """Load this directory instead of making a new model."""
    compile: bool = False
    """Compile the layers with torch.compile: minutes at first use, faster after."""

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
        """A model for its tokenizer, or else `vocabulary` (None: bytes); its weights depend on the seed and nothing else."""
        from igpo_sampling.models.llada import LLaDA

        if self.path is not None:
            return LLaDA(path=self.path, compile=self.compile)(device=device, dtype=dtype)
        import torch

        from igpo_sampling.models import checkpoints, tokenizers
        from igpo_sampling.models.llada_network import LLaDAConfig, LLaDAForDiffusion

        if self.tokenizer is not None:
            tokenizer = tokenizers.saved(self.tokenizer)
        else:
            tokenizer = tokenizers.utf8() if vocabulary is None else tokenizers.words(vocabulary)
        config = LLaDAConfig(
            d_model=self.width,
            n_layers=self.layers,
            n_heads=self.heads,
            n_kv_heads=self.heads,
            mlp_hidden_size=self.inner,
            rope_theta=self.rope_theta,
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
                elif "blocks" in name and name.endswith(("attn_out.weight", "ff_out.weight")):
                    weight.zero_()  # a block begins as the identity
                else:
                    weight.normal_(0.0, self.matrix_std, generator=generator)
            tokens = network.get_input_embeddings().weight
            tokens.normal_(0.0, self.embedding_std, generator=generator)
            tokens += self.embedding_std * torch.randn(self.width, generator=generator)
        checkpoint = checkpoints.Checkpoint(
            folder=Path(), settings=config.to_dict(), tokenizer=tokenizer, new_tokenizer=True
        )
        network.to(device=device, dtype=dtype)
        return checkpoints.ready(network, checkpoint, mask_id=tokenizer.mask_token_id, compiled=self.compile)
