"""LLaDA as published (2502.09992): Llama without a causal mask.

Native because (a) LLaDA rotates in float32, Hugging Face's Llama in the model's dtype, (b) the head runs at the
positions that are asked for, never over the whole canvas. Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from igpo_sampling.cache import Window

Result = TypeVar("Result")

HEAD_ROWS = 16
"""A matrix product with fewer rows takes another path and changes bits; heads are padded to this."""

FIXED = {
    "activation_type": "silu",
    "alibi": False,
    "attention_layer_norm": False,
    "block_type": "llama",
    "clip_qkv": None,
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "multi_query_attention": None,
    "rope": True,
    "rope_full_precision": True,
    "scale_logits": False,
    "weight_tying": False,
}
"""Keys of a published config that stand for an architecture; there is this one only."""


class LLaDAConfig(PreTrainedConfig):  # type: ignore[misc]
    """The published config's keys; those that it has beyond these are kept."""

    model_type = "llada"

    d_model: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    n_kv_heads: int | None = None
    mlp_hidden_size: int | None = None
    mlp_ratio: int = 4
    rope_theta: float = 500000.0
    rms_norm_eps: float = 1e-5
    vocab_size: int = 126464
    embedding_size: int | None = None
    mask_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None


class LLaDANorm(nn.RMSNorm):
    """RMSNorm computed in float32 at least, scaled in the model's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        return F.rms_norm(x.to(wide), self.normalized_shape, None, self.eps).to(x.dtype) * self.weight


class LLaDABlock(nn.Module):
    """Attention and SwiGLU, each behind a norm."""

    gradient_checkpointing = False
    """Set by `gradient_checkpointing_enable()`; unlike Hugging Face's layers, also obeyed in eval mode."""

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        d, self.width = config.d_model, config.d_model // config.n_heads
        heads = config.n_kv_heads or config.n_heads
        self.grouped, grouped = heads != config.n_heads, self.width * heads
        inner = config.mlp_hidden_size or config.mlp_ratio * d
        norm, linear = partial(LLaDANorm, d, eps=config.rms_norm_eps), partial(nn.Linear, bias=False)
        self.attn_norm, self.ff_norm = norm(), norm()
        self.q_proj, self.k_proj, self.v_proj = linear(d, d), linear(d, grouped), linear(d, grouped)
        self.attn_out = linear(d, d)
        self.ff_proj, self.up_proj, self.ff_out = linear(d, inner), linear(d, inner), linear(inner, d)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        visible: Tensor | None,
        keep: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """x (B, W, d); rotation cos and sin (..., W, d / heads); visible (B, 1, 1, T) bool, None = all -> (B, W, d).

        `keep` puts the keys and values of the W columns into a store and returns those of all T.
        """
        h = self.attn_norm(x)
        heads = (
            part.unflatten(2, (-1, self.width)).transpose(1, 2)
            for part in (self.q_proj(h), self.k_proj(h), self.v_proj(h))
        )
        q, k, v = heads
        q, k = rotate(q, *rotation), rotate(k, *rotation)
        if keep is not None:
            k, v = keep(k, v)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=self.grouped)
        x = x + self.attn_out(h.transpose(1, 2).flatten(2))
        h = self.ff_norm(x)
        y: Tensor = x + self.ff_out(F.silu(self.ff_proj(h)) * self.up_proj(h))
        return y


class LLaDAForDiffusion(PreTrainedModel):  # type: ignore[misc]
    """A bidirectional transformer that says what stands at each position; follows `igpo_sampling.denoiser.Denoiser`."""

    config_class = LLaDAConfig
    caches = ("prefix", "dual")
    compiled = False
    """Whether the blocks are."""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["LLaDABlock"]  # noqa: RUF012

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__(config)
        entries = config.embedding_size or config.vocab_size
        transformer = {
            "wte": nn.Embedding(entries, config.d_model),
            "blocks": nn.ModuleList(LLaDABlock(config) for _ in range(config.n_layers)),
            "ln_f": LLaDANorm(config.d_model, eps=config.rms_norm_eps),
            "ff_out": nn.Linear(config.d_model, entries, bias=False),
        }
        self.model = nn.ModuleDict({"transformer": nn.ModuleDict(transformer)})
        self.post_init()

    def forward(
        self,
        tokens: Tensor,
        attention: Tensor,
        where: Tensor,
        read: Callable[[Callable[[Tensor], Tensor], Tensor], Result] | None = None,
        window: Window | None = None,
    ) -> Tensor | Result:
        """tokens (B, T) long, attention (B, T) bool, where (N,) flat row-major -> logits (N, V), or what `read` returns."""
        part: Any = self.model["transformer"]
        x = part.wte(tokens if window is None else tokens.gather(1, window.columns))
        cos, sin = rotation_of(tokens.shape[1], self.config, x)
        if window is not None:
            cos, sin = cos[window.columns][:, None], sin[window.columns][:, None]
            where = window.locate(where, tokens.shape[1])
        visible = None if attention.all() else attention[:, None, None, :]
        with uncompiled(self.compiled and window is not None):
            for layer, block in enumerate(part.blocks):
                if block.gradient_checkpointing and torch.is_grad_enabled():
                    x = block._gradient_checkpointing_func(block.__call__, x, (cos, sin), visible)
                else:
                    keep = None if window is None else partial(window.store.put, layer, window.columns)
                    x = block(x, (cos, sin), visible, keep)
        hidden = part.ln_f(x.flatten(0, 1).index_select(0, where))
        return self.head(hidden) if read is None else read(self.head, hidden)

    def head(self, hidden: Tensor) -> Tensor:
        """hidden (n, d) -> logits (n, V); at least `HEAD_ROWS` rows go into the product."""
        padded = F.pad(hidden, (0, 0, 0, max(0, HEAD_ROWS - len(hidden))))
        logits: Tensor = self.get_output_embeddings()(padded)[: len(hidden)]
        return logits

    def get_input_embeddings(self) -> nn.Embedding:
        return self.get_submodule("model.transformer.wte")  # type: ignore[no-any-return]

    def get_output_embeddings(self) -> nn.Linear:
        return self.get_submodule("model.transformer.ff_out")  # type: ignore[no-any-return]

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: weights come from a file, or from `Tiny` with its own generator."""


def uncompiled(wanted: bool) -> AbstractContextManager[Any]:
    """For windows: each layer and each state of a store would be compiled anew."""
    return torch.compiler.set_stance("force_eager") if wanted else nullcontext()


def rotation_of(T: int, config: LLaDAConfig, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and signed sin (T, width) of rotary positions, in float32 at least: x cos + roll(x) sin rotates halves."""
    wide = torch.promote_types(like.dtype, torch.float32)
    width = config.d_model // config.n_heads
    rate = config.rope_theta ** (torch.arange(0, width, 2, dtype=wide, device=like.device) / -width)
    angle = torch.arange(T, dtype=wide, device=like.device)[:, None] * rate
    sin = angle.sin()
    return angle.cos().repeat(1, 2), torch.cat([-sin, sin], 1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, heads, T, width) rotated by its position (RoFormer, 2104.09864; halves, not pairs), in x's dtype."""
    wide = x.to(cos.dtype)
    return (wide * cos + wide.roll(x.shape[-1] // 2, -1) * sin).to(x.dtype)
