"""LLaDA checkpoints from a directory, and back to one that others can load.

The dense models have a network of their own, the mixture of experts is Qwen3-MoE without its causal mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from igpo_sampling.denoiser import Loaded
from igpo_sampling.models.stored import Stored

if TYPE_CHECKING:
    import torch

    from igpo_sampling.models.checkpoints import Checkpoint

MIXTURE = {
    "clip_qkv": None,
    "hidden_act": "silu",
    "moe_router_enable_expert_bias": False,
    "moe_router_score_function": "softmax",
    "norm_topk_prob": False,
    "partial_rotary_factor": 1,
    "qk_layernorm": True,
    "rope_scaling": None,
    "routed_scaling_factor": 1,
    "shared_expert_intermediate_size": None,
    "tie_word_embeddings": False,
}
"""Keys of a published config of LLaDA-MoE that stand for an architecture; there is this one only."""


@frozen(kw_only=True)
class LLaDA(Stored):
    """LLaDA-8B, LLaDA-1.5, LLaDA-MoE and every `tiny` model, from a directory or the hub."""

    path: str = "GSAI-ML/LLaDA-8B-Instruct"
    """A directory, or a name on the Hugging Face hub (downloaded once)."""

    def __call__(
        self,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        vocabulary: Sequence[str] | None = None,  # noqa: ARG002
        seed: int = 0,  # noqa: ARG002
    ) -> Loaded:
        """Load in `dtype`, or as stored. A checkpoint has its own vocabulary and needs no seed."""
        import torch

        from igpo_sampling.models import checkpoints, decoder_network
        from igpo_sampling.models.llada_network import FIXED, LLaDAConfig, LLaDAForDiffusion

        checkpoint = checkpoints.read_checkpoint(self.path, "llada", "lladamoe", "llada_moe")
        if "num_experts" in checkpoint.settings:
            return decoder_network.load(
                checkpoint,
                "qwen3_moe",
                mixture_settings(checkpoint),
                device=device,
                dtype=dtype,
                mask_id=self.mask_id,
                compiled=self.compile,
            )
        checkpoint.expect(FIXED)
        mask_id = checkpoint.mask_id(self.mask_id)
        with torch.device("meta"):
            network = LLaDAForDiffusion(LLaDAConfig(**checkpoint.settings))
        checkpoints.read_weights(checkpoint.folder, network, device=device, dtype=dtype)
        return checkpoints.ready(network, checkpoint, mask_id=mask_id, compiled=self.compile)


def mixture_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config of Qwen3-MoE that equals a published one of LLaDA-MoE."""
    settings = checkpoint.settings
    checkpoint.expect(MIXTURE | {"moe_layer_freq": [1] * settings["num_hidden_layers"]})
    return settings | {
        "decoder_sparse_step": 1,
        "head_dim": settings["hidden_size"] // settings["num_attention_heads"],
        "moe_intermediate_size": settings["expert_intermediate_size"],
        "norm_topk_prob": False,
        "sliding_window": None,
    }
