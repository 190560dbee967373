"""What is refused before torch is imported, a model loaded or data read, though it would be noticed later as well.

Only what a command will use counts: a run that trains on one split may be evaluated on a task without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from igpo_cli.errors import close
from igpo_cli.launch import require_shares
from igpo_cli.tasks import task_name

if TYPE_CHECKING:
    from igpo_cli.config import Config


def require_trainable(config: Config, processes: int | None = None) -> None:
    """UsageError where training could not teach anything, has no problems, or cannot be shared by so many processes."""
    require_shares(shared(config), processes)
    if config.run.steps and config.igpo["group"] == 1:
        alone = "group = 1 gives no signal: a rollout counts by how far its reward is from its group's mean. Use at least 2."
        raise config.refuse("", ValueError(alone))
    config.plugin("model")
    phases = {None: config.run.steps, "sft": config.section("sft").steps}
    used = [scope for scope, steps in phases.items() if steps]
    require_splits(config, [*used, *(f"eval.{name}" for name in config.evals())])


def shared(config: Config) -> dict[str, int]:
    """What each process takes an equal part of."""
    sft = config.section("sft")
    counts = {"prompts": (config.igpo["prompts"], config.run.steps), "[sft] batch": (sft.batch, sft.steps)}
    return {name: count for name, (count, steps) in counts.items() if steps}


def require_splits(config: Config, scopes: Iterable[str | None]) -> None:
    """UsageError where a source tells its splits, and the scope's ("sft", "eval.NAME" or None) is none of them."""
    for scope in scopes:
        if scope is None:
            split = config.run.split
        else:
            split = (config.section("sft") if scope == "sft" else config.evaluation(scope.removeprefix("eval."))).split
        known = getattr(config.plugin("task", scope), "splits", None)
        if known and split not in known:
            meant = close(split, known)
            flag = f"--{scope}.split" if scope else "--split"
            choose = f"Choose with {flag}" + (", or --sft.steps 0 for no fine-tuning." if scope == "sft" else ".")
            hint = f"Did you mean '{meant}'?" if meant else choose
            name = task_name(config, scope)
            text = f"split = {split} is no split of task '{name}', which has {', '.join(known)}. {hint}"
            raise config.refuse(scope or "", ValueError(text))
