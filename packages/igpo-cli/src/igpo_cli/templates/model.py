"""A network of one's own: convolutions that look to both sides.

A model plug-in loads or makes a network and what belongs to it. The network is an nn.Module whose one method, `forward`,
gives the logits at chosen cells of a canvas; nothing may look at padding, and nothing at other rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen, validators

from igpo_sampling.hookspecs import hookimpl

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from igpo_sampling import Loaded


@frozen(kw_only=True)
class Mine:
    """Convolutions in both directions, made from nothing."""

    width: int = field(default=64, validator=validators.ge(1))
    """Hidden size."""
    layers: int = field(default=5, validator=validators.ge(1))
    """Convolutions; each looks twice as far to either side as the one before it."""
    path: str | None = None
    """Load this directory instead of making a new model."""

    def __call__(
        self,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        vocabulary: Sequence[str] | None = None,
        seed: int = 0,
    ) -> Loaded:
        """A model for `vocabulary` (None: bytes) with weights of the seed, or the one that was saved at `path`."""
        import torch

        from igpo_sampling.models import checkpoints, tokenizers

        if self.path is not None:
            checkpoint = checkpoints.read_checkpoint(self.path, "mine")
            made = network(checkpoint.settings)
            checkpoints.read_weights(checkpoint.folder, made, device=device, dtype=dtype)
            return checkpoints.ready(made, checkpoint, mask_id=checkpoint.mask_id())
        tokenizer = tokenizers.utf8() if vocabulary is None else tokenizers.words(vocabulary)
        settings = {
            "model_type": "mine",
            "width": self.width,
            "layers": self.layers,
            "vocab_size": len(tokenizer),
        }
        made = network(settings).to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in made.parameters():
                weight.fill_(1.0) if weight.ndim == 1 else weight.normal_(0.0, 0.1, generator=generator)
        checkpoint = checkpoints.Checkpoint(folder=Path(), settings=settings, tokenizer=tokenizer, new_tokenizer=True)
        return checkpoints.ready(made.to(device, dtype), checkpoint, mask_id=tokenizer.mask_token_id)


def network(settings: Mapping[str, Any]) -> Any:
    """The network without its weights. Its classes stand in here, so that options are read without importing torch."""
    import torch
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

    class Block(nn.Module):
        """Each position with its neighbours at one distance to the left and to the right."""

        def __init__(self, width: int, reach: int) -> None:
            super().__init__()
            self.reach, self.norm = reach, nn.RMSNorm(width)
            self.mix, self.out = nn.Linear(3 * width, 2 * width, bias=False), nn.Linear(2 * width, width, bias=False)

        def forward(self, x: Tensor, attention: Tensor) -> Tensor:
            own = self.norm(x) * attention[..., None]  # padding is as empty as what lies beyond the canvas
            around = nn.functional.pad(own, (0, 0, self.reach, self.reach))
            left, right = around[:, : -2 * self.reach], around[:, 2 * self.reach :]
            return x + self.out(nn.functional.gelu(self.mix(torch.cat([left, own, right], -1))))  # type: ignore[no-any-return]

    class Convolutions(PreTrainedModel):  # type: ignore[misc] # of transformers, so that adapters and saving work
        """Embeddings, blocks, and a head that runs at the chosen cells alone."""

        config_class = PreTrainedConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.embed = nn.Embedding(config.vocab_size, config.width)
            self.blocks = nn.ModuleList(Block(config.width, 2**layer) for layer in range(config.layers))
            self.norm, self.head = nn.RMSNorm(config.width), nn.Linear(config.width, config.vocab_size, bias=False)
            self.post_init()

        def forward(
            self, tokens: Tensor, attention: Tensor, where: Tensor, read: Callable[..., Any] | None = None
        ) -> Any:
            """tokens (B, T), attention (B, T) bool, where (N,) flat row-major -> logits (N, V), or what `read` returns."""
            x = self.embed(tokens)
            for block in self.blocks:
                x = block(x, attention)
            hidden = self.norm(x.flatten(0, 1)[where])
            return self.head(hidden) if read is None else read(self.head, hidden)

        def get_input_embeddings(self) -> nn.Embedding:
            return self.embed

        def get_output_embeddings(self) -> nn.Linear:
            return self.head

        def _init_weights(self, module: nn.Module) -> None:
            """Nothing: weights come from the seed or from a file."""

    with torch.device("meta"):
        return Convolutions(PreTrainedConfig(**settings))


@hookimpl
def igpo_models() -> dict[str, str]:
    return {"mine": "igpo_cli.templates.model:Mine"}
