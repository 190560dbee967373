"""Models that are to be compared, by path: runs, checkpoints of runs, adapters, saved models.

All are loaded as the one configuration says, so that they differ in their weights and in nothing else.
"""

from __future__ import annotations

import tomllib
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve

from igpo_cli.assemble import load_model, trained_model
from igpo_cli.errors import UsageError, configuring
from igpo_cli.lora import adapt, add_adapters, merge
from igpo_cli.settings import LoRA
from igpo_rl import later
from igpo_sampling import Loaded

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

    from igpo_cli.config import Config
else:
    torch = later.load("torch")


def labels(config: Config, paths: list[str]) -> dict[str, str | None]:
    """Short names, all different, -> paths; the first is the configured model's, whose path is None."""
    own = config.file.parent.name if config.file and config.file.name == "run.toml" else None
    path = config.values["model"].get("path")
    first = own or (Path(path).name if path not in (None, "none") else str(config.values["model"]["name"]))
    found: dict[str, str | None] = {first: None}
    for each in paths:
        short = Path(each).name
        if short in ("model", "start") or (Path(each).parent.name in ("checkpoints", "adapters")):
            parts = Path(each).resolve().parts
            short = "/".join([parts[-2], short] if short in ("model", "start") else [parts[-3], short])
        if short in found:
            short = each
        if short in found:
            raise UsageError(f"{each} is named twice. Every model takes part once.")
        found[short] = each
    return found


def load(config: Config, path: str | None) -> Loaded:
    """The configured model (None), or the one at a path, its adapters merged."""
    if path is None:
        return load_model(config, trained_model(config))
    folder = Path(path)
    if (folder / "run.toml").is_file():
        if not (folder / "model").is_dir():
            raise UsageError(
                f"{folder} holds no model/: its training has not finished. Name one of its checkpoints, such as "
                f"{folder / 'checkpoints'}/igpo-..., or go on with igpo train --resume {folder}."
            )
        return load_model(config, str(folder / "model"))
    if (folder / "adapter_config.json").is_file():
        run = folder.parent.parent
        in_run = (run / "run.toml").is_file()
        loaded = began(config, run, folder.name) if in_run else load_model(config, trained_model(config))
        with configuring():
            return evolve(loaded, denoiser=add_adapters(loaded.denoiser, folder))
    if (folder / "state.pt").is_file():
        return of_checkpoint(config, folder)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is no run, checkpoint, adapter or model: it holds no run.toml and no config.json.")
    return load_model(config, path)


def began(config: Config, run: Path, phase: str) -> Loaded:
    """The model that a phase of a run began with: its fine-tuned one, the one that it loaded, or made from its seed."""
    values = written(run)
    if phase == "igpo" and (run / "start").is_dir():
        return load_model(config, str(run / "start"))
    path = values["model"].get("path", "none")
    return load_model(config.replacing(seed=values["seed"]), None if path == "none" else path)


def written(run: Path) -> dict[str, Any]:
    """A run's own run.toml."""
    return tomllib.loads((run / "run.toml").read_text(encoding="utf-8"))


def of_checkpoint(config: Config, folder: Path) -> Loaded:
    """The weights of `RUN/checkpoints/PHASE-STEP`, in the model that the phase began with."""
    from igpo_rl.checkpoint import Saved
    from igpo_rl.trainer import load_weights

    run, (phase, _, step) = folder.parent.parent, folder.name.rpartition("-")
    if not (run / "run.toml").is_file():
        raise UsageError(f"{folder} does not lie in a run's folder, whose run.toml says what its weights belong to.")
    values = written(run)
    lora = LoRA(**(values.get("sft", {}).get("lora", values["lora"]) if phase == "sft" else values["lora"]))
    loaded = began(config, run, phase)
    network, _ = adapt(loaded, lora, seed=0)
    with configuring():
        load_weights(network, Saved(folder, phase, int(step)).load()["weights"])
    return evolve(loaded, denoiser=merge(network))


def digest(denoiser: Module) -> str:
    """A name for a model's weights: of up to 4,096 spread numbers of each tensor, bit for bit; any training changes it."""
    found = blake2b(digest_size=16)
    for name, weight in sorted(denoiser.named_parameters()):
        flat = weight.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // 4096)].cpu().contiguous()
        found.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        found.update(some.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
