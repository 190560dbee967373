"""LoRA by peft: adapters on every linear layer but the head, and on experts; by full path, merged after a phase.

Names like "q_proj" would hit four of LLaDA's seven linear layers and say nothing; so paths come from the model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lazy_loader as lazy

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

    from igpo_cli.settings import LoRA
    from igpo_sampling import Loaded
else:
    torch = lazy.load("torch")


def adapt(loaded: Loaded, options: LoRA, seed: int) -> tuple[Module, int]:
    """The module to train, and how many weights that is; with rank 0 all of the model's own."""
    network: Any = loaded.denoiser
    if options.rank:
        from peft import LoraConfig, get_peft_model

        settings = LoraConfig(
            r=options.rank,
            lora_alpha=options.alpha,
            lora_dropout=options.dropout,
            target_modules=list(loaded.linear),
            target_parameters=list(loaded.experts) or None,
            bias="none",
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = get_peft_model(network, settings)
        found = sum(name.endswith(".lora_A.default") for name, _ in network.named_modules())
        wanted = len(loaded.linear) + len(loaded.experts)
        if found != wanted:
            raise ValueError(f"LoRA found {found} of {wanted} layers; the model's paths have changed")
    return network, sum(weight.numel() for weight in network.parameters() if weight.requires_grad)


def save_adapters(network: Any, folder: Path) -> None:
    """The adapters alone, as peft writes them."""
    network.save_pretrained(folder, save_embedding_layers=False)  # "auto" would ask the hub about the base model
    (folder / "README.md").unlink(missing_ok=True)  # peft's form to be filled in


def merge(network: Any) -> Module:
    """The plain network, its adapters added into its weights."""
    merged: Module = network.merge_and_unload() if hasattr(network, "merge_and_unload") else network
    return merged


def without_adapters(policy: Module, network: Any) -> Callable[..., Any]:
    """The reference policy of a LoRA run: the policy with the adapters of the network within it off."""

    def reference(*inputs: Any, **named: Any) -> Any:
        with network.disable_adapter():
            return policy(*inputs, **named)

    return reference
