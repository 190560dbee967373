"""Back ends that run programs with this machine's Python: in bubblewrap with a system call filter, or without protection.

A run has two processes, for the program and for its tests. This module only carries lines from the one to the other, with
a cap on their length, and never reads what the program sends.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import TracebackType

from attrs import field, frozen

from igpo_data.sandbox.executor import Limits, Run, UnavailableError
from igpo_data.sandbox.seccomp import program_filter
from igpo_data.sandbox.suite import Suite

START_SECONDS = 60.0
# For a new process on a busy machine; the clock of a run starts behind it.
LINE = 16 << 20
# Bytes of one call or one answer.
SCRIPT = Path(__file__).with_name("child.py")


@frozen(kw_only=True)
class Bubblewrap:
    """Namespaces of its own for each process (no network, no files but Python's, no other processes), a filter of system
    calls, and resource limits. Linux, with bubblewrap and libseccomp."""

    limits: Limits = field(factory=Limits)

    def run(self, program: str, tests: Suite) -> Run:
        """As `Executor.run`; UnavailableError where this machine cannot do it."""
        check_bubblewrap()
        return relay(bubblewrap, program, tests, self.limits)

    def close(self) -> None:
        """Nothing is kept."""


@frozen(kw_only=True)
class Unprotected:
    """A plain process with the rights of this user and resource limits: for programs that are trusted anyway."""

    limits: Limits = field(factory=Limits)

    def run(self, program: str, tests: Suite) -> Run:
        """As `Executor.run`; UnavailableError on Windows, which has no such limits."""
        if sys.platform == "win32":
            raise UnavailableError("limits of time and memory need Linux or macOS")
        return relay(plain, program, tests, self.limits)

    def close(self) -> None:
        """Nothing is kept."""


Start = Callable[[Limits], "subprocess.Popen[bytes]"]


def relay(start: Start, program: str, tests: Suite, limits: Limits) -> Run:
    """One run in two processes that `start` makes."""
    with Child(start, limits) as answering, Child(start, limits) as asking:
        for child in (answering, asking):
            if not child.receive(START_SECONDS).startswith(b'{"ready"'):
                raise UnavailableError(f"a process did not start ({child.complaint()})")
        late = threading.Event()

        def stop() -> None:
            late.set()
            answering.kill()
            asking.kill()

        clock = threading.Timer(limits.seconds, stop)
        clock.start()
        try:
            run = _converse(answering, asking, program, tests)
        finally:
            clock.cancel()
        return (
            Run("timeout") if run is None and late.is_set() else run or Run("failed", "the program ended its process")
        )


def _converse(answering: Child, asking: Child, program: str, tests: Suite) -> Run | None:
    """Program, tests, and their calls one after the other; None where a process ended early."""
    answering.send(json.dumps({"program": program}).encode())
    defined = answering.receive()
    if not defined.startswith(b'{"value"'):
        return _failed(_raised(defined)) if defined else None
    asking.send(json.dumps({"tests": tests.source, "calls": tests.calls}).encode())
    while line := asking.receive():
        if not line.startswith(b'{"call"'):
            ended = json.loads(line)
            if "passed" in ended:
                return Run("passed") if ended["passed"] else Run("unsupported", "the tests never called the program")
            return _failed(ended["failed"])
        answering.send(line)
        answer = answering.receive()
        if not answer:
            return None
        asking.send(answer)
    return None


def _failed(note: str) -> Run:
    return Run("failed", "memory" if note.startswith("MemoryError") else note)


def _raised(line: bytes) -> str:
    """What a program's first line says that it raised; it may be anything."""
    found = re.match(rb'\{"error": \["(\w{1,60})", "(.{0,200})"\]', line)
    return b": ".join(found.groups()).decode("ascii", "replace") if found else "the program sent nonsense"


class Child:
    """One process that speaks lines."""

    def __init__(self, start: Start, limits: Limits) -> None:
        self._process = start(limits)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._process.wait()  # Not communicate: a process that escaped would hold the pipes open.

    def send(self, line: bytes) -> None:
        """One line; a process that is gone shows when its answer is read."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.rstrip(b"\n") + b"\n")
            self._process.stdin.flush()

    def receive(self, seconds: float | None = None) -> bytes:
        """The next line; empty where the process ended, or sent no end of line within the cap."""
        assert self._process.stdout is not None
        clock = threading.Timer(seconds, self.kill) if seconds else None
        if clock:
            clock.start()
        line = self._process.stdout.readline(LINE)
        if clock:
            clock.cancel()
        return line if line.endswith(b"\n") else b""

    def kill(self) -> None:
        """Ends the process with all that it started."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def complaint(self) -> str:
        """What a process that did not start said."""
        self.kill()
        _, said = self._process.communicate()
        return said.decode(errors="replace").strip()[-300:] or f"exit code {self._process.returncode}"


# How processes start -------------------------------------------------------------------------------------------------


def python(limits: Limits) -> list[str]:
    """The interpreter without site-packages, running child.py."""
    # Not the virtual environment's: that may lie in a home directory.
    interpreter = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
    numbers = (limits.seconds, limits.memory, limits.disk)
    return [interpreter, "-I", "-S", "-B", "-c", SCRIPT.read_text(encoding="utf-8"), *map(str, numbers)]


def plain(limits: Limits) -> subprocess.Popen[bytes]:
    """A process without protection, in a group of its own."""
    return _open(python(limits))


def bubblewrap(limits: Limits, *, leave_out: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    """A process in namespaces of its own, under the filter; `leave_out` weakens it, to show what each part is for."""
    read, write = os.pipe()
    try:
        with os.fdopen(write, "wb") as bytecode:
            bytecode.write(program_filter())
        command = ["bwrap", *(word for words in _namespaces(limits) if words[0] not in leave_out for word in words)]
        if "--seccomp" not in leave_out:
            command += ["--seccomp", str(read)]
        return _open([*command, "--", *python(limits)], (read,))
    finally:
        os.close(read)


def _namespaces(limits: Limits) -> Iterator[tuple[str, ...]]:
    """The words for bwrap, an option a tuple."""
    for kind in ("user", "ipc", "pid", "net", "uts", "cgroup-try"):
        yield (f"--unshare-{kind}",)
    yield "--uid", "65534"
    yield "--gid", "65534"
    yield ("--die-with-parent",)
    yield ("--clearenv",)
    yield "--cap-drop", "ALL"
    # Only these of Python's folder: it may be in the home directory, or hold other environments.
    own = [f"{sys.base_prefix}/{name}" for name in ("bin", "lib", "lib64")]
    for path in dict.fromkeys(("/usr/lib", "/usr/lib64", *own, "/etc/ld.so.cache")):
        yield "--ro-bind-try", path, path
    for link in map(Path, ("/lib", "/lib64")):
        if link.is_symlink():
            yield "--symlink", str(link.readlink()), str(link)
        else:
            yield "--ro-bind-try", str(link), str(link)
    for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
        yield "--dev-bind", device, device
    yield "--size", str(limits.disk << 20)
    yield "--tmpfs", "/tmp"
    yield "--remount-ro", "/"
    yield "--chdir", "/tmp"


def _open(command: list[str], descriptors: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [shutil.which(command[0]) or command[0], *command[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=descriptors,
        start_new_session=True,
        env={},
        cwd="/",
    )


@cache
def _fault_of_bubblewrap() -> str:
    """Why it does not work on this machine, or nothing: found out by one run."""
    if sys.platform != "linux":
        return "bubblewrap is for Linux"
    if shutil.which("bwrap") is None:
        return "bwrap is not installed (Debian, Ubuntu: apt install bubblewrap)"
    try:
        program_filter()
        probe = Suite("assert answer() == 1", (("answer", "answer"),))
        run = relay(bubblewrap, "def answer():\n    return 1\n", probe, Limits(seconds=START_SECONDS))
    except UnavailableError as error:
        return f"bubblewrap: {error}"
    return "" if run.outcome == "passed" else f"a first program did not run in it: {run}"


def check_bubblewrap() -> None:
    """UnavailableError, with what to do, where programs cannot be run in bubblewrap here."""
    if fault := _fault_of_bubblewrap():
        raise UnavailableError(fault)
