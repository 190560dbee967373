"""Runs of the drills: started in a moment by a fork of one process that has imported everything, watched, and compared.

The forked process is the `igpo` command as it is; around some of its functions stands a mark that says what it is doing.
"""

from __future__ import annotations

import functools
import importlib
import json
import math
import mmap
import os
import struct
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

PLUGIN = Path(__file__).with_name("plugin.py")
SFT_STEPS, STEPS = 16, 24
BUSY = ("start-up", "rollout", "update", "evaluation", "save", "model")
"""What a run may be doing; `save` writes a checkpoint and `model` the model that RL starts from or the trained one."""
WAITING, MET, GOING = range(3)
SAME = ("model", "start", "rollouts", "eval", "run.toml")
"""What two equal runs have alike, byte for byte."""
FEW = ("--sft.steps", "4", "--steps", "6", "--dtype", "float64", "--evaluate-every", "3", "--rollouts-every", "1")
"""A short run in which only the order of additions may differ."""
HEAVY = (
    "accelerate",
    "torch.utils.tensorboard",
    "transformers",
    "igpo_cli.commands.train",
    "igpo_cli.training",
    "igpo_data.tasks.lists",
    "igpo_rl.adaptive",
    "igpo_rl.trainer",
    "igpo_sampling.models.llada_network",
    "igpo_sampling.models.tiny",
    "igpo_sampling.samplers",
)


@frozen
class Row:
    """What came of one drill."""

    drill: str
    count: int
    happened: str
    passed: bool


def words(folder: Path, *more: str) -> list[str]:
    """The tiny preset, scaled down to seconds: both phases, hints that adapt, evaluations, the best checkpoint."""
    return [
        "train",
        *("--folder", str(folder.parent), "--name", folder.name, "--plugin", str(PLUGIN), "--verifier", "first-word"),
        *("--sft.steps", str(SFT_STEPS), "--sft.batch", "8", "--task.sft-problems", "64", "--sft.optimizer.lr", "0.01"),
        *("--steps", str(STEPS), "--prompts", "4", "--group", "4", "--updates", "2", "--sampler.steps", "5"),
        *("--task.train-problems", "16", "--injection", "adaptive", "--chunker", "fixed", "--chunker.length", "3"),
        *("--eval.heldout.limit", "8", "--eval.common.limit", "4", "--evaluate-every", "8", "--rollouts-every", "2"),
        *("--save-every", "2", "--best", "eval/heldout/pass@1"),
        *more,
    ]


def resumed(folder: Path, *more: str) -> list[str]:
    """Go on with the run where it is one already, else begin."""
    return ["train", "--resume", str(folder), *more] if (folder / "run.toml").exists() else words(folder, *more)


# Starting and watching ------------------------------------------------------------------------------------------------


class Marks:
    """What a run is doing and how many steps it has logged, in memory that it shares with its watcher.

    A run that comes to do what the watcher waits for goes on when the watcher is there, however busy the machine is.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 20)

    def _read(self, place: int) -> int:
        return int(struct.unpack_from("i", self._memory, 4 * place)[0])

    def _write(self, place: int, value: int) -> None:
        struct.pack_into("i", self._memory, 4 * place, value)

    @property
    def busy(self) -> str:
        return BUSY[self._read(0)]

    @busy.setter
    def busy(self, what: str) -> None:
        self._write(0, BUSY.index(what))

    @property
    def step(self) -> int:
        return self._read(1)

    @step.setter
    def step(self, step: int) -> None:
        self._write(1, step)

    def wish(self, busy: str | None, step: int) -> None:
        """What the watcher waits for: after so many steps, to be doing this; None: anything."""
        self._write(2, -1 if busy is None else BUSY.index(busy))
        self._write(3, step)
        self._write(4, WAITING)

    def met(self) -> bool:
        """Whether the run has come to it; the run goes on."""
        if self._read(2) < 0:
            return self.step >= self._read(3)
        if self._read(4) == WAITING:
            return False
        self._write(4, GOING)
        return True

    def _meet(self) -> None:
        """In the run: wait for the watcher if this is what it waits for."""
        if self._read(2) == self._read(0) and self.step >= self._read(3) and self._read(4) == WAITING:
            self._write(4, MET)
            while self._read(4) == MET:
                time.sleep(0.0002)

    def place(self) -> None:
        """Put the marks around the functions of this process."""
        from igpo_cli.tracking import Tracker, overall
        from igpo_cli.training import Training
        from igpo_rl import IGPO
        from igpo_rl.checkpoint import Checkpoints

        for owner, name, what in (
            (Training, "sft", "update"),
            (Training, "igpo", "update"),
            (Training, "_evaluate", "evaluation"),
            (IGPO, "collect", "rollout"),
            (Checkpoints, "save", "save"),
        ):
            setattr(owner, name, self._during(getattr(owner, name), what))
        log = Tracker.log

        def counted(tracker, step, phase, metrics):
            log(tracker, step, phase, metrics)
            self.step = overall(phase, step, tracker.totals)

        Tracker.log = counted
        save = self._during(Training._save, "model")

        def written(training, name, *more):
            self.step = (
                SFT_STEPS if name == "start" else SFT_STEPS + STEPS
            )  # a resumed run may have logged none of them
            save(training, name, *more)

        Training._save = written

    def _during(self, function: Callable, what: str) -> Callable:
        @functools.wraps(function)
        def marked(*inputs, **named):
            before, self.busy = self.busy, what
            self._meet()
            try:
                return function(*inputs, **named)
            finally:
                self.busy = before
                self._meet()

        return marked


def prepare() -> None:
    """Import what a run needs, and start nothing: a fork takes no threads along."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    for name in HEAVY:
        importlib.import_module(name)


def start(argv: Sequence[str], log: Path, marks: Marks | None = None, first: Callable[[], None] | None = None) -> int:
    """`igpo argv` in a process of its own, its output at the end of `log`; the process's id."""
    if marks is not None:
        marks.busy, marks.step = "start-up", 0
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if marks is not None:
            marks.place()
        if first is not None:
            first()
        from igpo_cli.main import run

        code = run(argv)
    except BaseException:  # noqa: BLE001 a fork must not fall back into its parent's code
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def ended(child: int) -> int:
    """Wait for a process: its exit code, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finish(argv: Sequence[str], log: Path, **named) -> int:
    """Run to the end."""
    return ended(start(argv, log, **named))


@contextmanager
def timed(found: list[float]):
    began = time.perf_counter()
    yield
    found.append(time.perf_counter() - began)


# Comparing ------------------------------------------------------------------------------------------------------------


def metrics(folder: Path) -> list[dict[str, object]]:
    """The rows of metrics.jsonl without times."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time")} for row in rows]


def differences(folder: Path, other: Path) -> list[str]:
    """In what two runs differ, but for times and paths."""
    names = [sorted(_alike(each)) for each in (folder, other)]
    found = [f"{name} is there once" for name in sorted(set(names[0]) ^ set(names[1]))]
    found += [
        f"{name} differs"
        for name in sorted({*names[0]} & {*names[1]})
        if _content(folder, name) != _content(other, name)
    ]
    return found + ([] if metrics(folder) == metrics(other) else ["metrics.jsonl differs"])


def far(run: Path, straight: Path) -> list[str]:
    """In what the runs differ by more than the order in which numbers are added up."""
    found = []
    ours, theirs = metrics(run), metrics(straight)
    if len(ours) != len(theirs):
        return [f"{len(ours)} rows of metrics instead of {len(theirs)}"]
    for one, other in zip(ours, theirs, strict=True):
        for name in one.keys() | other.keys():
            a, b = one.get(name), other.get(name)
            same = (
                math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
                if isinstance(a, float) and isinstance(b, float)
                else a == b
            )
            found += [] if same else [f"{one['phase']} {one['step']} {name}: {a} and {b}"]
    for path in sorted(straight.glob("rollouts/*.jsonl")):
        rows = [
            [json.loads(line) for line in (each / "rollouts" / path.name).read_text().splitlines()]
            for each in (run, straight)
        ]
        if [row["tokens"] for row in rows[0]] != [row["tokens"] for row in rows[1]]:
            found.append(f"tokens of {path.name}")
    return found[:3]


def _alike(folder: Path) -> list[str]:
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return [path.as_posix() for path in files if path.parts[0] in SAME]


def _content(folder: Path, name: str) -> bytes:
    content = (folder / name).read_bytes()
    return (
        b"\n".join(line for line in content.splitlines() if not line.startswith((b"name =", b"folder =")))
        if name == "run.toml"
        else content
    )


def half_written(folder: Path) -> list[str]:
    """What of a run's folder is neither whole nor absent; an unfinished last line of metrics is cut when it is read."""
    from igpo_cli.tracking import read_lines, read_metrics
    from igpo_rl.checkpoint import fault

    found = [path for path in (folder / "checkpoints").glob("[!.]*") if fault(path) is not None]
    found += [path for path in [folder / "start"] if path.exists() and fault(path) is not None]
    for path in [*folder.glob("rollouts/*.jsonl"), *folder.glob("eval/*.jsonl")]:
        if not path.read_bytes().endswith(b"\n"):
            found.append(path)
        read_lines(path)
    read_metrics(folder)
    return [str(path.relative_to(folder)) for path in found]
