"""`kill -9` at random moments of a run, which is started again each time."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from random import Random

from attrs import frozen

from drills.runs import SFT_STEPS, STEPS, Marks, Row, differences, ended, finish, half_written, resumed, start, words

WISHES = (None, "save", "rollout", "update", "save", "start-up")
"""What the run is to be doing, in turn; None: whatever."""


@frozen
class Moment:
    """When to kill: once so many steps are logged and the run does what is wished for, a moment later."""

    step: int
    wish: str | None
    delay: float


def moments(count: int, seed: int, step_seconds: float) -> list[Moment]:
    """Spread over the run; where there are several, one while the model is written that RL starts from; the last at the end."""
    rng, total = Random(f"kills {seed}"), SFT_STEPS + STEPS
    found = []
    for number in range(count):
        wish, step = WISHES[number % len(WISHES)], int((number + rng.random()) / count * (total - 2))
        wish = None if wish == "rollout" and step < SFT_STEPS else wish
        delay = rng.random() * (step_seconds if wish is None else 1.0 if wish == "start-up" else 0.03)
        found.append(Moment(step, wish, delay))
    border = next(number for number, each in enumerate(found) if each.step > SFT_STEPS - 4) if count > 3 else None
    for number, step in {border: SFT_STEPS, count - 1: total}.items():
        if number is not None:
            found[number] = Moment(step, "model", rng.random() * 0.03)
    return found


def kill(child: int, moment: Moment, marks: Marks) -> str | None:
    """Kill at the moment: what the run was doing. None: it ended before."""
    while not (moment.wish == "start-up" or marks.met()):
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            return None
        time.sleep(0.0005)
    time.sleep(moment.delay)
    busy = marks.busy
    os.kill(child, signal.SIGKILL)
    return busy if ended(child) == -signal.SIGKILL else None


def killed(run: Path, moment: Moment, marks: Marks, log: Path) -> str | None:
    """Begin or go on, and kill at the moment."""
    marks.wish(moment.wish, moment.step)
    return kill(start(resumed(run), log, marks), moment, marks)


def drill(folder: Path, straight: Path, count: int, seed: int) -> Row:
    """The killed run and the one that was left alone have the same weights, metrics, rollouts and answers."""
    log, run, marks = folder / "kills.log", folder / "killed", Marks()
    seconds = float((straight.parent / "seconds").read_text()) / (SFT_STEPS + STEPS)
    during: Counter[str] = Counter()
    half, missed = [], 0
    for moment in moments(count, seed, seconds):
        busy = killed(run, moment, marks, log)
        if (
            busy is None and (run / "model").exists()
        ):  # a busy machine let it end first; as if its last rename was still to come
            shutil.rmtree(run / "model")
            missed += 1
            busy = killed(run, Moment(SFT_STEPS + STEPS, "model", 0.0), marks, log)
        if busy is None:
            return Row("kill -9", sum(during.values()), f"the run ended before a kill at {moment}; see {log}", False)
        during[busy] += 1
        half += half_written(run) if run.exists() else []
    code = finish(resumed(run), log)
    found = differences(run, straight) if code == 0 else [f"exit code {code}, see {log}"]
    where = ", ".join(f"{busy} {times}" for busy, times in during.most_common())
    happened = f"killed during {where}; missed and repeated {missed}; half written: {', '.join(half) or 'nothing'}; differs: {', '.join(found) or 'nothing'}"
    return Row("kill -9", count, happened, not half and not found)


def run_straight(folder: Path) -> Path:
    """The run that nothing interrupts."""
    began = time.perf_counter()
    code = finish(words(folder), folder.parent / "straight.log")
    if code:
        raise SystemExit(f"the uninterrupted run failed with code {code}: see {folder.parent / 'straight.log'}")
    (folder.parent / "seconds").write_text(str(time.perf_counter() - began))
    return folder
