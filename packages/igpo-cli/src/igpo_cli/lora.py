"""LoRA by peft: adapters on every linear layer but the head, and on experts; by full path, merged after a phase.

Names like "q_proj" would hit four of LLaDA's seven linear layers and say nothing; so paths come from the model.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igpo_rl import later

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

    from igpo_cli.settings import LoRA
    from igpo_sampling import Loaded
else:
    torch = later.load("torch")


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
        with torch.random.fork_rng(), _quiet():
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
    _readable(folder)


def _readable(folder: Path) -> None:
    """Adapters that are as readable as what stands beside them: safetensors makes a file for its owner alone."""
    (folder / "adapter_model.safetensors").chmod((folder / "adapter_config.json").stat().st_mode)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what transformers says to peft about names that will change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


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


def add_adapters(network: Any, folder: Path) -> Module:
    """The plain network with the adapters of a folder, in peft's format, merged into its weights.

    ValueError where they were made for another network.
    """
    from peft import LoraConfig, get_peft_model
    from peft.utils import load_peft_weights, set_peft_model_state_dict

    try:
        settings = LoraConfig.from_pretrained(str(folder))
        settings.base_model_name_or_path = None  # what they were made for is found out by their shapes
        weights = load_peft_weights(str(folder), device="cpu")
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{folder} holds no adapters in peft's format ({str(error).splitlines()[0]})") from error
    try:
        with torch.random.fork_rng(), _quiet():
            adapted = get_peft_model(network, settings)
        found = set_peft_model_state_dict(adapted, weights)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the adapters of {folder} were made for another model ({reason})") from error
    missing = [name for name in found.missing_keys if "lora_" in name] + list(found.unexpected_keys)
    if missing:
        raise ValueError(f"the adapters of {folder} were made for another model: {missing[0]} does not fit")
    return merge(adapted)


def stacked(folders: Sequence[Path], out: Path, base: str) -> None:
    """Adapters that were trained one after the other as one: their ranks side by side, on the model `base`.

    Each layer gets (s1 B1 A1 + s2 B2 A2) as one product, exact but for rounding. ValueError where their scales differ or
    they hold experts.
    """
    from safetensors.torch import load_file, save_file

    tables = [json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")) for folder in folders]
    weights = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    if len(folders) > 1:
        if any(table.get("target_parameters") for table in tables):
            raise ValueError("adapters of experts in two phases cannot be stacked. Push the merged model.")
        if len({table["lora_alpha"] / table["r"] for table in tables}) > 1:
            raise ValueError("the adapters of the phases have unlike scales, alpha / rank. Push the merged model.")
    whole = {
        name: torch.cat([part[name] for part in weights], 0 if ".lora_A." in name else 1).contiguous()
        for name in weights[0]
    }
    settings = tables[0] | {
        "r": sum(table["r"] for table in tables),
        "lora_alpha": sum(table["lora_alpha"] for table in tables),
        "base_model_name_or_path": base,
    }
    out.mkdir(exist_ok=True)
    (out / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    save_file(whole, out / "adapter_model.safetensors", metadata={"format": "pt"})
    _readable(out)
