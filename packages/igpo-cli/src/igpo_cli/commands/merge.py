"""`igpo merge`: adapters, or a checkpoint of a run, as a model of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from attrs import evolve

from igpo_cli.commands import App, config_command
from igpo_cli.errors import UsageError, close, configuring

if TYPE_CHECKING:
    from igpo_cli.config import Config
    from igpo_sampling import Loaded


def register(app: App) -> None:
    """Adds the command."""

    @config_command(app, "merge", tables=("model",), preset=None)
    def merge(
        config: Config,
        *,
        out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the model.")],
        adapter: Annotated[
            list[Path],
            typer.Option(metavar="DIR", help="Folder with adapters in peft's format; of several the first goes first."),
        ] = [],  # noqa: B006
        checkpoint: Annotated[
            str | None, typer.Option(metavar="PHASE-STEP", help="This checkpoint of the run, such as igpo-40.")
        ] = None,
    ) -> None:
        """Merge LoRA adapters into their model: a run's own (igpo merge runs/NAME), those of --adapter, or a checkpoint's."""
        run = config.file.parent if config.file is not None and config.file.name == "run.toml" else None
        if out.exists() and (out.is_file() or any(out.iterdir())):
            raise UsageError(f"{out} exists already and is never overwritten. Choose another --out.")
        if adapter and checkpoint:
            raise UsageError("--adapter and --checkpoint exclude each other: a checkpoint has its own adapters.")
        if run is None and (checkpoint or not adapter):
            raise UsageError(
                "nothing to merge. Name a run (igpo merge runs/NAME --out DIR), or --model and --adapter DIR."
            )
        loaded = from_checkpoint(config, run, checkpoint) if run and checkpoint else with_adapters(config, run, adapter)
        loaded.save(out)
        print(f"{out}  use it with --model {config.values['model']['name']} --model.path {out}")


def with_adapters(config: Config, run: Path | None, chosen: list[Path]) -> Loaded:
    """The configured model, or the one that a run's last phase started from, with adapters merged."""
    from igpo_cli.assemble import load_model
    from igpo_cli.lora import add_adapters

    folders, start = list(chosen), None
    if run is not None and not folders:
        known = [run / "adapters" / phase for phase in ("sft", "igpo") if (run / "adapters" / phase).is_dir()]
        if not known:
            raise UsageError(
                f"{run} holds no adapters: its weights were trained as a whole, or no phase ended. "
                "Its model is in model/; a checkpoint becomes one with --checkpoint."
            )
        started = known[-1].name == "igpo" and (run / "start").is_dir()
        folders, start = (known[-1:], str(run / "start")) if started else (known, None)
    loaded = load_model(config, start)
    with configuring():
        for folder in folders:
            loaded = evolve(loaded, denoiser=add_adapters(loaded.denoiser, folder))
    return loaded


def from_checkpoint(config: Config, run: Path, name: str) -> Loaded:
    """The model as it was at a checkpoint of its run."""
    from igpo_cli.assemble import load_model
    from igpo_cli.lora import adapt, merge
    from igpo_rl.checkpoint import Checkpoints, fault
    from igpo_rl.trainer import load_weights

    every = Checkpoints(folder=run / "checkpoints").newest_first()
    found = next((saved for saved in every if saved.path.name == name), None)
    if found is None:
        meant = close(name, [saved.path.name for saved in every])
        hint = f" Did you mean '{meant}'?" if meant else ""
        held = ", ".join(saved.path.name for saved in reversed(every)) or "none"
        raise UsageError(f"{run} has no checkpoint '{name}'.{hint} There are: {held}.")
    if (damage := fault(found.path)) is not None:
        raise UsageError(f"checkpoint {found.path} cannot be used: {damage}. Take another one.")
    started = found.phase == "igpo" and (run / "start").is_dir()
    loaded = load_model(config, str(run / "start") if started else None)
    network: Any = adapt(loaded, config.section("lora"), config.run.seed)[0]
    with configuring():
        load_weights(network, found.load()["weights"])
    return evolve(loaded, denoiser=merge(network))
