"""SIGTERM and SIGINT: the step at hand is finished and saved while there is time, else the last checkpoint stands.

Handlers write to stderr without Python's streams and locks, which the interrupted code may hold, and leave by os._exit
where it may be stuck: what is on the disk is whole at any moment.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from attrs import define, field

from igpo_cli.errors import first
from igpo_cli.launch import lost

SAME = 1.0
"""Seconds within which a second signal is the first one again: a terminal and a launcher both pass Ctrl-C on."""


@define
class Signals:
    """Whether this process was told to stop."""

    grace: float
    """Seconds that the step at hand gets, its saving included."""
    remedy: str
    """How to go on, for the last line."""
    received: int = 0
    """The number of the signal, 0 before there is one."""
    _since: float = 0.0
    _over: threading.Event = field(factory=threading.Event)

    @contextmanager
    def heard(self) -> Iterator[None]:
        """While the run trains. Handlers belong to the main thread; in another one the caller's own stay."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._hear) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        except RuntimeError as error:
            if self.received and lost(error):  # another process was told twice, while this one waited for it
                self._leave("stopped at once")
            raise
        finally:
            self._over.set()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not self.received:
            self.received, self._since = number, now
            name = signal.Signals(number).name
            _say(
                f"{name}: this step is finished and saved if {self.grace:g} s are enough. A second signal stops at once."
            )
            threading.Thread(target=self._wait, daemon=True).start()
        elif now - self._since > SAME:
            self._leave("stopped at once")

    def _wait(self) -> None:
        if not self._over.wait(self.grace):
            self._leave(f"stopped: the step was not finished within {self.grace:g} s")

    def _leave(self, what: str) -> None:
        _say(f"{what}. {self.remedy}")
        if sys.stdout is not None and sys.stdout.isatty():
            os.write(1, b"\x1b[?25h")  # the cursor, which the live screen hides
        os._exit(128 + self.received)


def _say(text: str) -> None:
    if first():
        os.write(2, f"{text}\n".encode())
