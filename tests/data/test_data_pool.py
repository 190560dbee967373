"""Worker processes are killed and replaced, limited, shared with nobody by accident, and never outlive the program."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from igpo_data.pool import Pool, Worker, share, shared_pool


def words(pool: Pool, pairs: list[tuple[str, str]]) -> list[str]:
    """What the pool says of each pair: equal, different, or why it cannot say."""
    return [reply.note or ("equal" if reply.value else "different") for reply in pool.check(pairs)]


def test_a_worker_is_killed_by_its_own_clock_and_replaced() -> None:
    pool = Pool("algebra", workers=1, seconds=0.5, memory=1024)
    assert words(pool, [("x+1", "1+x")]) == ["equal"]
    started = time.monotonic()
    assert words(pool, [("12", "9^{9^{9^{9}}}"), ("x+2", "2+x")]) == ["timeout", "equal"]
    assert time.monotonic() - started < 15
    # A process that somebody else ended is replaced, and its question asked again.
    process = pool._workers[0]._process
    assert process is not None
    os.killpg(process.pid, signal.SIGKILL)
    assert words(pool, [("x+3", "3+x")]) == ["equal"]
    assert words(pool, [("x+4", "4+x")]) == ["equal"]
    pool.close()
    assert process.poll() is not None


def test_processes_of_one_machine_share_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert share(8) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert [share(8), share(3), share(2)] == [2, 1, 1]
    assert len(shared_pool("algebra", 7, 1.0, 1024)._workers) == 2


def test_text_that_reaches_algebra_is_not_executed(tmp_path: Path) -> None:
    """Past extraction and comparison, which would stop most of it: what math-verify makes of it, on either side."""
    trap = tmp_path / "executed"
    touch = f"__import__('pathlib').Path('{trap}').touch()"
    attacks = [
        touch,
        f"\\text{{{touch}}}",
        f"\\operatorname{{eval}}({touch!r})",
        f"x = {touch}",
        f"exec({touch!r})",
        f"\\sum_{{i=1}}^{{2}} {touch}",
        f"(lambda: {touch})()",
        f"$ {touch} $",
        f"\\boxed{{{touch}}}",
        "().__class__.__base__.__subclasses__()",
    ]
    pool = Pool("algebra", workers=1, seconds=5.0, memory=1024)
    pairs = [pair for attack in attacks for pair in ((attack, "x+1"), ("x+1", attack), ("12", attack))]
    assert "equal" not in words(pool, pairs)
    assert not trap.exists()
    pool.close()
    exec(touch)  # Faulty: the same text, evaluated.
    assert trap.exists()


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="reads the limits of a process from /proc")
def test_memory_is_limited() -> None:
    pool = Pool("algebra", workers=1, seconds=5.0, memory=500)
    assert words(pool, [("x+1", "1+x")]) == ["equal"]
    process = pool._workers[0]._process
    assert process is not None
    (line,) = re.findall("Max address space +(\\d+)", Path(f"/proc/{process.pid}/limits").read_text())
    assert int(line) == 500 * 2**20
    pool.close()
    # Where even the first check does not fit, it fails without taking the pool down.
    pool = Pool("algebra", workers=1, seconds=5.0, memory=50)
    assert words(pool, [("x+1", "1+x")])[0] in ("memory", "error", "different")
    pool.close()


def test_a_reply_that_nobody_waited_for_is_never_taken_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker("algebra", seconds=5.0, memory=1024)
    assert worker.ask('["x+1", "1+x"]').value is True
    process = worker._process
    assert process is not None

    def interrupted(process: subprocess.Popen[str], question: str, seconds: float) -> str:
        assert process.stdin is not None
        print(question, file=process.stdin, flush=True)  # asked, and the user presses Ctrl-C
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("igpo_data.pool._exchange", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker.ask('["x+2", "2+x"]')
    assert process.poll() is not None
    assert worker.ask('["x+3", "x+4"]').value is False
    worker.close()


def test_settled_pairs_are_not_asked_again() -> None:
    pool = Pool("algebra", workers=2, seconds=1.0, memory=1024)
    pairs = [("x+1", "1+x"), ("x+1", "2+x")] * 20
    assert words(pool, pairs) == ["equal", "different"] * 20
    pool.close()
    assert words(pool, pairs) == ["equal", "different"] * 20
    assert all(worker._process is None for worker in pool._workers)  # nothing was started for it
    assert pool.check([]) == []


SCRIPT = """
import os, sys
from igpo_data import Math, Task
print("main", flush=True)
print(Math(workers=1)("\\\\boxed{1+x}", Task(key="t", prompt="", answer="x+1")).correct, flush=True)
if len(sys.argv) > 1:
    child = os.fork()
    print(Math(workers=1)("\\\\boxed{2+x}", Task(key="t", prompt="", answer="x+2")).correct, flush=True)
    if child == 0:
        os._exit(0)
    os.wait()
    from igpo_data.pool import shared_pool
    print(shared_pool("algebra", 1, 1.0, 1024)._workers[0]._process.pid, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_an_unguarded_script_works_and_its_main_module_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "main\nTrue\n"


def test_a_fork_starts_its_own_worker_and_a_killed_program_leaves_none_behind(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), "fork"], capture_output=True, text=True, timeout=120, check=False
    )
    *lines, pid = done.stdout.split()
    assert lines == ["main", "True", "True", "True"]
    for _ in range(100):
        try:
            os.killpg(int(pid), 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the worker outlived the program")
