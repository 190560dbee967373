"""LLaDA checkpoints from a directory, and back to one that others can load.

Keys are checked on both sides: a weight that is missing, left over or of another shape is an error that names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from igpo_sampling.denoiser import Loaded

if TYPE_CHECKING:
    import torch


@frozen(kw_only=True)
class LLaDA:
    """LLaDA-8B, LLaDA-1.5 and every model saved by this kit, from a directory or the hub."""

    path: str = "GSAI-ML/LLaDA-8B-Instruct"
    """A directory, or a name on the Hugging Face hub (downloaded once)."""
    mask_id: int | None = field(default=None, validator=validators.optional(validators.ge(0)))
    """The mask token, where the model's config names none."""

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

        from igpo_sampling.models import checkpoints
        from igpo_sampling.models.llada_network import FIXED, LLaDAConfig, LLaDAForDiffusion

        folder = checkpoints.open_directory(self.path)
        settings = checkpoints.read_settings(folder)
        file, family = folder / "config.json", settings.get("model_type")
        if family != "llada":
            if self.mask_id is None and settings.get("mask_token_id") is None:
                raise ValueError(
                    f"model '{family}' has no mask token; masked diffusion needs one. "
                    "If this is a masked LM, set --model.mask_id."
                )
            raise ValueError(f"{file}: model_type = '{family}' is another family; this plug-in reads 'llada'.")
        for key, value in FIXED.items():
            if (settings.get(key) or None) != (value or None) and key in settings:
                raise ValueError(f"{file}: {key} = {settings[key]!r} is not supported; LLaDA has {value!r}.")
        checkpoint = checkpoints.read_checkpoint(self.path)
        mask_id = checkpoint.mask_id(self.mask_id)
        with torch.device("meta"):
            network = LLaDAForDiffusion(LLaDAConfig(**settings))
        checkpoints.read_weights(folder, network, device=device, dtype=dtype)
        return checkpoints.ready(network, checkpoint, mask_id=mask_id)
