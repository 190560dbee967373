"""What forwards were asked for, counted: rows, head positions, operations of matrix products, and bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define
from torch import Tensor

from igpo_sampling.cache import Window
from igpo_sampling.models.llada_network import LLaDAConfig, LLaDAForDiffusion


@define
class Counted:
    """A denoiser that counts."""

    model: LLaDAForDiffusion
    inputs: int = 0
    """Rows of all forwards."""
    head: int = 0
    """Positions given to the head."""
    flops: int = 0
    """Floating-point operations of matrix products, two a multiplication."""
    bytes: int = 0
    """Weights that were read, once a product, and logits that were written."""
    caches = LLaDAForDiffusion.caches

    def __call__(
        self,
        tokens: Tensor,
        attention: Tensor,
        where: Tensor,
        read: Callable[[Callable[[Tensor], Tensor], Tensor], Any],
        window: Window | None = None,
    ) -> Any:
        rows, kept = tokens.shape
        columns = kept if window is None else window.columns.shape[1]
        self.inputs += rows
        self.flops += body_flops(self.model.config, rows, columns, kept)
        self.bytes += sum(weight.nbytes for weight in self.model.model["transformer"].blocks.parameters())

        def counting(head: Callable[[Tensor], Tensor], hidden: Tensor) -> Any:
            def counted(part: Tensor) -> Tensor:
                logits = head(part)
                self.head += len(part)
                self.flops += 2 * logits.numel() * part.shape[1]
                self.bytes += self.model.get_output_embeddings().weight.nbytes + logits.nbytes
                return logits

            return read(counted, hidden)

        return self.model(tokens, attention, where, counting, *([window] if window else []))


def body_flops(config: LLaDAConfig, rows: int, columns: int, kept: int) -> int:
    """Of all layers at `columns` of `rows`, each of which attends to `kept` keys."""
    d, inner = config.d_model, config.mlp_hidden_size or config.mlp_ratio * config.d_model
    grouped = d // config.n_heads * (config.n_kv_heads or config.n_heads)
    weights = 2 * d * d + 2 * d * grouped + 3 * d * inner
    return config.n_layers * rows * columns * (2 * weights + 4 * d * kept)
