"""What every back end of the sandbox does: run a program against tests, within limits, and say how it went."""

from __future__ import annotations

from typing import Literal, Protocol

from attrs import field, frozen, validators

from igpo_data.sandbox.suite import Suite


@frozen(kw_only=True)
class Limits:
    """What one run may use."""

    seconds: float = field(default=5.0, validator=validators.gt(0.0))
    """Wall-clock time; the processes of a run are killed together when it is over."""
    memory: int = field(default=512, validator=validators.ge(64))
    """MiB of each of the two interpreters."""
    disk: int = field(default=16, validator=validators.ge(1))
    """MiB of the only folder that can be written, in memory; monty has none."""


@frozen
class Run:
    """How a run ended."""

    outcome: Literal["passed", "failed", "timeout", "unsupported"]
    """unsupported: this back end lacks something that Python has, so another one must decide."""
    note: str = ""
    """What happened, in a few words."""


class Executor(Protocol):
    """A back end of the sandbox; may be called from several threads."""

    def run(self, program: str, tests: Suite) -> Run:
        """Runs the program, then the tests, which call it. Never raises on the program's account, never hangs."""
        ...

    def close(self) -> None:
        """Ends processes that are kept warm; the next run starts new ones."""
        ...


class UnavailableError(RuntimeError):
    """A back end cannot work on this machine; the message says why and what to install."""
