"""From a resolved configuration to live objects: the one place where names, libraries and devices meet."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from attrs import evolve

from igpo_cli.errors import UsageError, configuring
from igpo_cli.judge import Judge
from igpo_cli.launch import ranks
from igpo_cli.play import Player
from igpo_cli.problems import ProblemSet
from igpo_cli.tasks import task_name, tasks_of
from igpo_rl import IGPO, LeftToRight, NoInjection, Resample, Trajectory, later
from igpo_rl.memory import Room
from igpo_sampling import Loaded

if TYPE_CHECKING:
    import torch

    from igpo_cli.config import Config
else:
    torch = later.load("torch")


def device_of(config: Config) -> str:
    """The device that `device = "auto"` stands for here; the chosen one otherwise. Each process of several has its own GPU."""
    device = config.run.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    require_device(device)
    if ranks() > 1 and ":" in device:
        raise UsageError(
            f"--device {device}, but there are {ranks()} processes, which take one each. Use --device cuda."
        )
    return f"cuda:{os.environ['LOCAL_RANK']}" if ranks() > 1 and device == "cuda" else device


def require_device(device: str) -> None:
    """UsageError where torch does not know the device or has none of that number."""
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"no device named '{device}'. Use auto, cpu, cuda or cuda:N.") from error
    if kind.type != "cuda":
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise UsageError(f"--device {device}, but torch sees no GPU here. Use --device cpu, or look at: igpo doctor.")
    if (kind.index or 0) >= count:
        raise UsageError(f"--device {device}, but there are {count} GPUs: cuda:0 to cuda:{count - 1}.")


def load_model(config: Config, path: str | None = None, device: str | None = None) -> Loaded:
    """The model of the run, on its device or another one; `path` replaces the configured directory."""
    model = config.plugin("model")
    if path is not None:
        model = evolve(model, path=path)
    vocabulary = model_vocabulary(config) if "task" in config.values else None
    with configuring():
        loaded: Loaded = model(
            device=device or device_of(config),
            dtype=getattr(torch, config.run.dtype),
            vocabulary=vocabulary,
            seed=config.run.seed,
        )
    return loaded


def model_vocabulary(config: Config) -> tuple[str, ...] | None:
    """The words of all task sources of the run, for a model made from nothing; None (bytes) unless all are closed."""
    scopes = [None, "sft", *(f"eval.{name}" for name in config.evals())]
    sources = [config.plugin("task", scope) for scope in scopes]
    if not all(hasattr(source, "vocabulary") for source in sources):
        return None
    return tuple(dict.fromkeys(word for source in sources for word in source.vocabulary()))


def problem_set(
    config: Config, loaded: Loaded, split: str, within: str | None = None, limit: int | None = None
) -> ProblemSet:
    """Tasks of a split, tokenised in the template of the scope."""
    return ProblemSet.encode(tasks_of(config, split, within, limit), config.section("prompt", within), loaded.tokenizer)


def player_of(config: Config, loaded: Loaded, problems: ProblemSet, verifier: Any, within: str | None = None) -> Player:
    """What plays the rows of these problems."""
    sampler = config.plugin("sampler", within)
    if not config.run.attend_eos and (cache := getattr(sampler, "cache", "none")) != "none":
        raise UsageError(
            f"--sampler.cache {cache} keeps what was attended, but with attend_eos = false that changes as rows end. "
            "Use --sampler.cache none."
        )
    return Player(
        loaded=loaded,
        sampler=sampler,
        verifier=Judge(verifier),
        tasks=problems.tasks,
        width=config.run.width,
        attend_eos=config.run.attend_eos,
        room=Room(config.run.play_rows, "sampling", "play_rows"),
    )


def algorithm_of(config: Config) -> IGPO:
    """The IGPO step with its chosen parts."""
    parts = {kind: config.plugin(kind) for kind in ("chunker", "injection", "filter", "estimator", "loss")}
    with configuring():
        return IGPO(**parts, **config.igpo)


def shows_hints(config: Config) -> bool:
    """Whether the injection shows parts of worked solutions."""
    shown = not isinstance(config.plugin("injection"), (NoInjection, Resample))
    return shown and bool(config.igpo["hints_from"] == "trace")


def unseen(config: Config, loaded: Loaded) -> list[str]:
    """What a block-causal model cannot see, though the configuration counts on it."""
    if loaded.block is None:
        return []
    found = []
    if not isinstance(estimator := config.plugin("estimator"), (LeftToRight, Trajectory)):
        found.append(
            f"the model sees no block behind its own (blocks of {loaded.block}), but estimator "
            f"{type(estimator).__name__} masks earlier blocks where it scores later ones: its scores are not those of what "
            "the model writes. --estimator trajectory replays that"
        )
    if shows_hints(config):
        found.append(
            f"the model sees no block behind its own (blocks of {loaded.block}): hints help the blocks that they stand in, "
            "and later ones, only"
        )
    return found


def require_hints(config: Config, problems: ProblemSet) -> None:
    """Refuse an injection that has nothing to inject."""
    if problems.hintable or not shows_hints(config):
        return
    injection = config.values["injection"]["name"]
    raise UsageError(
        f"--injection {injection} needs tasks with worked solutions, but '{task_name(config)}' has none. "
        "Pick a task that has them (lists, gsm8k, procedural), or --injection none (plain GRPO), "
        "or take hints from earlier successes: --hints-from own-success."
    )


def trained_model(config: Config) -> str | None:
    """The model of the run whose run.toml was given, unless another was asked for; None: the configured one."""
    if config.file is None or config.file.name != "run.toml" or config.origins.get("model.path") == "flag":
        return None
    folder = config.file.parent / "model"
    if not folder.is_dir():
        raise UsageError(
            f"{config.file.parent} holds no model/: its training has not finished. "
            f"Go on with igpo train --resume {config.file.parent}, or name a model with --model.path."
        )
    return str(folder)
