"""The tasks and the verifier of a configuration, without torch: what `igpo data` and all that trains
or evaluates begin with.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from igpo_cli.errors import UsageError, configuring, warn
from igpo_data import Task, pick

if TYPE_CHECKING:
    from igpo_cli.config import Config


def tasks_of(config: Config, split: str, within: str | None = None, limit: int | None = None) -> list[Task]:
    """The tasks of a split, at most `limit`; a split without tasks is an error. A random part where the scope says so."""
    source = config.plugin("task", within)
    scope = (
        config.section("sft")
        if within == "sft"
        else config.evaluation(within.removeprefix("eval."))
        if within
        else config.run
    )
    with reading():
        tasks = pick(source(split), limit, scope.shuffle)
    if not tasks:
        raise UsageError(f"task '{task_name(config, within)}' has no problems in split '{split}'.")
    return tasks


@contextmanager
def reading() -> Iterator[None]:
    """While tasks are read, what is wrong with the data is the user's to mend, and what is odd about it is said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            with configuring():
                yield
        except OSError as error:
            raise UsageError(str(error)) from error
        finally:
            for warning in caught:
                warn(str(warning.message))


def task_name(config: Config, within: str | None = None) -> str:
    """The configured name of the task source."""
    table: Any = config.values
    for part in within.split(".") if within else ():
        table = table.get(part, {})
    return str(table.get("task", config.values["task"])["name"])


@contextmanager
def verifier_of(config: Config, within: str | None = None) -> Iterator[Any]:
    """The verifier, its worker processes ended at the end."""
    verifier = config.plugin("verifier", within)
    try:
        yield verifier
    finally:
        close = getattr(verifier, "close", None)
        if close is not None:
            close()
