"""Attacks on the sandbox. Each is shown to be real where that does no harm: without protection, or with a part of it left out."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from igpo_data.sandbox import processes
from igpo_data.sandbox.executor import Executor, Limits, Run, UnavailableError
from igpo_data.sandbox.monty import InMonty
from igpo_data.sandbox.processes import Bubblewrap, Unprotected, bubblewrap, python, relay
from igpo_data.sandbox.suite import Suite, prepare

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
BACK_ENDS = {"monty": InMonty, "bubblewrap": Bubblewrap}
ATTACK = prepare("assert attack() == 'done'")


@pytest.fixture(params=["monty", pytest.param("bubblewrap", marks=pytest.mark.sandbox)])
def back_end(request: pytest.FixtureRequest) -> type[InMonty | Bubblewrap]:
    if request.param == "bubblewrap":
        need_bubblewrap()
    return BACK_ENDS[request.param]


def need_bubblewrap() -> None:
    try:
        processes.check_bubblewrap()
    except UnavailableError as fault:
        pytest.skip(str(fault))


def sandboxed(back_end: type[InMonty | Bubblewrap], body: str, **limits: float) -> Run:
    """The outcome of an attack: a function body that returns 'done' where it succeeds."""
    return back_end(limits=Limits(**{"seconds": 5.0, "memory": 256, **limits})).run(attack(body), ATTACK)


def unprotected(body: str, **limits: float) -> Run:
    return Unprotected(limits=Limits(**{"seconds": 10.0, "memory": 512, **limits})).run(attack(body), ATTACK)


def attack(body: str) -> str:
    return "def attack():\n" + textwrap.indent(textwrap.dedent(body), "    ")


def processes_with(mark: str) -> list[int]:
    """Running processes that have a text in their arguments."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            running = "State:\tZ" not in (folder / "status").read_text()
            if running and mark.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


FORKS = """
    import os, time
    for _ in range(40):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    return 'done'
"""


def test_a_fork_bomb_makes_no_process(back_end: type[InMonty | Bubblewrap]) -> None:
    assert sandboxed(back_end, FORKS, seconds=5.0625).outcome in ("failed", "unsupported")
    assert processes_with("5.0625") == []


@pytest.mark.sandbox
def test_without_the_filter_a_fork_bomb_works_but_dies_with_its_namespace() -> None:
    need_bubblewrap()
    limits = Limits(seconds=5.125, memory=256)
    weakened = relay(lambda limits: bubblewrap(limits, leave_out=("--seccomp",)), attack(FORKS), ATTACK, limits)
    if os.getuid() == 0:  # For anyone else RLIMIT_NPROC forbids it already.
        assert weakened == Run("passed")
    wait_until(lambda: processes_with("5.125") == [])


def test_ten_gigabytes_are_not_given(back_end: type[InMonty | Bubblewrap]) -> None:
    body = "x = [0] * {size}\nx[-1] = 1\nreturn 'done'"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sandboxed(back_end, body.format(size=1_250_000_000)) == Run("failed", "memory")
    assert sandboxed(back_end, "x = []\nwhile True:\n    x.append('a' * 100_000 + str(len(x)))") == Run(
        "failed", "memory"
    )
    assert sandboxed(back_end, "return 9 ** 9 ** 9 ** 9").outcome in ("failed", "timeout")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    # The limit makes the difference.
    assert sandboxed(back_end, body.format(size=20_000_000), memory=128).note == "memory"
    assert sandboxed(back_end, body.format(size=20_000_000), memory=512) == Run("passed")


def test_an_endless_loop_ends_in_time(back_end: type[InMonty | Bubblewrap]) -> None:
    started = time.monotonic()
    assert sandboxed(back_end, "while True:\n    pass", seconds=0.5) == Run("timeout")
    assert sandboxed(
        back_end, "try:\n    while True:\n        pass\nexcept Exception:\n    return 'done'", seconds=0.5
    ) == Run("timeout")
    endless = "while True:\n    pass\ndef attack():\n    return 'done'"
    assert back_end(limits=Limits(seconds=0.5)).run(endless, ATTACK) == Run("timeout")
    assert time.monotonic() - started < 30
    # One that ends passes: it is the time that is judged.
    assert sandboxed(back_end, "for _ in range(100_000):\n    pass\nreturn 'done'") == Run("passed")


def test_a_loop_in_the_tests_ends_too(back_end: type[InMonty | Bubblewrap]) -> None:
    tests = prepare("while attack():\n    pass")
    assert back_end(limits=Limits(seconds=0.5)).run(attack("return True"), tests) == Run("timeout")


def test_sleeping_holds_nothing_up(back_end: type[InMonty | Bubblewrap]) -> None:
    started = time.monotonic()
    assert sandboxed(back_end, "import time\ntime.sleep(100)\nreturn 'done'", seconds=1.0) == Run("timeout")
    assert time.monotonic() - started < 15
    assert sandboxed(back_end, "import time\ntime.sleep(0.01)\nreturn 'done'") == Run("passed")


def test_no_file_outside_is_written(back_end: type[InMonty | Bubblewrap], tmp_path: Path) -> None:
    file = tmp_path / "written"
    body = f"with open({str(file)!r}, 'w') as file:\n    file.write('x')\nreturn 'done'"
    assert sandboxed(back_end, body).outcome != "passed"
    for folder in ("/", "/usr/lib", "/dev", "/var/tmp"):
        assert sandboxed(back_end, body.replace(str(tmp_path), folder)).outcome != "passed"
    assert not file.exists()
    assert unprotected(body) == Run("passed")
    assert file.exists()


def test_no_file_is_read_but_those_of_python(back_end: type[InMonty | Bubblewrap], tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("done")
    body = f"with open({str(file)!r}) as file:\n    return file.read()"
    assert sandboxed(back_end, body).outcome != "passed"
    assert unprotected(body) == Run("passed")
    # Of a home directory that holds Python itself the way there is seen, and nothing else.
    listing = "import os\nreturn sorted(os.listdir({folder!r}))"
    for folder in (Path.home(), Path("/etc"), Path("/proc"), Path("/var"), Path("/")):
        way = Path(sys.base_prefix)
        here = [way.relative_to(folder).parts[0]] if way.is_relative_to(folder) and way != folder else []
        seen = {
            "/": ["dev", "etc", "lib", "lib64", "tmp", "usr", *here],
            "/etc": ["ld.so.cache"],
        }.get(str(folder), here)
        tests = prepare(
            f"try:\n    seen = attack()\nexcept FileNotFoundError:\n    seen = []\nassert set(seen) <= set({seen!r}), seen"
        )
        program = attack(listing.format(folder=str(folder)))
        assert back_end().run(program, tests).outcome == ("passed" if back_end is Bubblewrap else "unsupported")
        assert Unprotected().run(program, tests).outcome == "failed"


def test_the_environment_is_empty(back_end: type[InMonty | Bubblewrap], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IGPO_SECRET", "done")
    body = "import os\nreturn os.environ.get('IGPO_SECRET')"
    assert sandboxed(back_end, body).outcome != "passed"

    def careless(limits: Limits) -> subprocess.Popen[bytes]:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(python(limits), start_new_session=True, **pipes)  # type: ignore[call-overload,no-any-return]

    assert relay(careless, attack(body), ATTACK, Limits()) == Run("passed")
    if back_end is Bubblewrap:
        only_what_python_sets = (
            "import os\nreturn 'done' if set(os.environ) <= {'PWD', 'LC_CTYPE'} else str(os.environ)"
        )
        assert sandboxed(back_end, only_what_python_sets) == Run("passed")


def test_no_connection_is_made(back_end: type[InMonty | Bubblewrap]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        body = f"import socket\nsocket.create_connection(('127.0.0.1', {listener.getsockname()[1]}), 1)\nreturn 'done'"
        assert sandboxed(back_end, body).outcome != "passed"
        with pytest.raises(TimeoutError):
            listener.accept()
        if back_end is Bubblewrap:
            # Either of the two keeps it from happening; without both it does.
            for leave_out in (("--seccomp",), ("--unshare-net",)):
                weakened = relay(
                    lambda limits, out=leave_out: bubblewrap(limits, leave_out=out), attack(body), ATTACK, Limits()
                )
                assert weakened.outcome == "failed"
            weak = relay(
                lambda limits: bubblewrap(limits, leave_out=("--seccomp", "--unshare-net")),
                attack(body),
                ATTACK,
                Limits(),
            )
            assert weak == Run("passed")
            listener.accept()[0].close()
        assert unprotected(body) == Run("passed")
        listener.accept()[0].close()


KILL = "import os, signal\nos.kill({victim}, signal.SIGKILL)\nreturn 'done'"


def test_no_other_process_is_killed(back_end: type[InMonty | Bubblewrap]) -> None:
    victim = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        for target in ("os.getppid()", str(victim.pid), str(os.getpid()), "-1"):
            assert sandboxed(back_end, KILL.format(victim=target)).outcome != "passed"
        assert victim.poll() is None
        assert unprotected(KILL.format(victim=victim.pid)) == Run("passed")
        assert victim.wait(5) == -signal.SIGKILL
    finally:
        victim.kill()
        victim.communicate()


DAEMON = """
    import os, time
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(20)
        os._exit(0)
    os.waitpid(child, 0)
    return 'done'
"""


def test_no_daemon_outlives_the_run(back_end: type[InMonty | Bubblewrap]) -> None:
    assert sandboxed(back_end, DAEMON, seconds=5.25).outcome != "passed"
    wait_until(lambda: processes_with("5.25") == [])
    if back_end is Bubblewrap:
        limits = Limits(seconds=5.375, memory=256)
        relay(lambda limits: bubblewrap(limits, leave_out=("--seccomp",)), attack(DAEMON), ATTACK, limits)
        wait_until(lambda: processes_with("5.375") == [])
    if os.getuid() == 0:
        assert unprotected(DAEMON, seconds=5.5) == Run("passed")
        survivors = processes_with("5.5")
        assert survivors
        for survivor in survivors:
            os.kill(survivor, signal.SIGKILL)


FILL = """
    import os
    written, block = 0, b'x' * 1_000_000
    for folder in {folders!r}:
        for number in range(40):
            try:
                with open(folder + '/fill%d' % number, 'wb') as file:
                    for _ in range(2):
                        written += file.write(block)
            except OSError:
                continue
    return 'done' if written > 50_000_000 else written
"""


def test_the_disk_is_not_filled(back_end: type[InMonty | Bubblewrap], tmp_path: Path) -> None:
    folders = ("/tmp", "/dev/shm", "/dev", "/", "/var/tmp", "/run", str(tmp_path))
    assert sandboxed(back_end, FILL.format(folders=folders)).outcome != "passed"
    assert list(tmp_path.iterdir()) == []
    if back_end is Bubblewrap:
        some = FILL.format(folders=folders).replace("'done' if written > 50_000_000 else written", "written")
        counted = prepare("assert 10_000_000 < attack() <= 16 * 2**20")
        assert Bubblewrap().run(attack(some), counted) == Run("passed")
        assert Bubblewrap(limits=Limits(disk=4)).run(attack(some), counted).outcome == "failed"
    assert unprotected(FILL.format(folders=(str(tmp_path),))) == Run("passed")
    shutil.rmtree(tmp_path)


FLOOD = """
    import os
    block = b'x' * {block}
    for _ in range(1_000_000_000 // {block}):
        for descriptor in {descriptors}:
            try:
                os.write(descriptor, block)
            except OSError:
                pass
    return 'done'
"""


def test_a_gigabyte_of_output_is_thrown_away(back_end: type[InMonty | Bubblewrap]) -> None:
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = sandboxed(back_end, "for _ in range(10_000):\n    print('x' * 100_000)\nreturn 'done'", seconds=2.0)
    assert run.outcome in ("passed", "timeout")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    assert time.monotonic() - started < 30
    if back_end is Bubblewrap:
        # Into the pipe of answers itself, without and with ends of lines.
        for block in (100_000, 1):
            flood = FLOOD.format(block=block, descriptors="range(3, 10)")
            assert sandboxed(back_end, flood if block > 1 else flood.replace("b'x'", "b'\\n'")).outcome != "passed"
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000
    assert sandboxed(back_end, "return ['x' * 1000 for _ in range(100_000)]").outcome != "passed"


def test_programs_of_several_threads_run_side_by_side(back_end: type[InMonty | Bubblewrap]) -> None:
    executor: Executor = back_end(limits=Limits(seconds=20.0))
    tests = prepare("for i in range(5):\n    assert double(i) == 2 * i")
    programs = [f"def double(x):\n    return {factor} * x" for factor in (1, 2) * 6]
    with ThreadPoolExecutor(4) as threads:
        runs = list(threads.map(lambda program: executor.run(program, tests).outcome, programs))
    assert runs == ["failed", "passed"] * 6
    executor.close()
    assert executor.run(programs[1], tests) == Run("passed")  # and start again
    executor.close()


# What crosses between program and tests ------------------------------------------------------------------------------


VALUES = [
    "None", "True", "-3", "2 ** 200", "0.1", "float('inf')", "1j", "'text\\n'", "'é'", "b'bytes\\x00'", "[1, [2, (3,)]]",
    "(1, 'a')", "{1: 'a', 'b': [2], (1, 2): 3}", "{1, 2}", "frozenset([1])", "[None, True, 1.5]", "[]", "{}", "()", "set()",
]  # fmt: skip


def test_plain_data_crosses_unchanged_in_both_directions(back_end: type[InMonty | Bubblewrap]) -> None:
    lines = [
        f"value = {value}\nassert same(value) == value\nassert type(same(value)) is type(value)" for value in VALUES
    ]
    lines.append("assert str(same(float('nan'))) == 'nan'")
    lines.append("assert same(1) is not True")
    tests = prepare("\n".join(lines))
    assert back_end().run("def same(x):\n    return x", tests) == Run("passed")
    assert back_end().run("def same(x):\n    return x if x != 'é' else 'e'", tests).outcome == "failed"


def test_exceptions_cross_by_their_kind(back_end: type[InMonty | Bubblewrap]) -> None:
    tests = prepare(
        """
try:
    f(-1)
except ValueError as error:
    assert str(error) == 'negative'
else:
    assert False
"""
    )
    assert back_end().run("def f(x):\n    raise ValueError('negative')", tests) == Run("passed")
    assert back_end().run("def f(x):\n    raise KeyError('negative')", tests).outcome == "failed"
    assert back_end().run("def f(x):\n    return x", tests).outcome == "failed"


@pytest.mark.sandbox
def test_subclasses_and_iterators_cross_as_plain_data() -> None:
    need_bubblewrap()
    program = """
from collections import Counter, OrderedDict, namedtuple
def f(n):
    return [Counter('aa'), OrderedDict(a=1), namedtuple('P', 'x')(1), range(3), map(str, [1]), object()][n]
"""
    tests = prepare(
        "assert f(0) == {'a': 2}\nassert f(1) == {'a': 1}\nassert f(2) == (1,)\nassert f(3) == range(3)\n"
        "assert f(4) != ['1']\nassert list(f(4)) == ['1']\n"
    )
    assert Bubblewrap().run(program, tests) == Run("passed")
    assert "no plain data" in Bubblewrap().run(program, prepare("assert f(5)")).note


def test_monty_hands_on_what_it_cannot_judge() -> None:
    """Where it would say that a list is what is an iterator in Python, or lacks something."""
    tests = prepare("assert f(['1']) == [1]")
    for program in (
        "def f(x):\n    return map(int, x)",
        "def f(x):\n    return (int(y) for y in x)",
        "f = lambda x: map(int, x)",
        "def f(x):\n    return [len(filter(None, x))]",
        "def f(x):\n    pairs = zip(x, x)\n    return [int(pairs[0][0])]",
        "from collections import deque\ndef f(x):\n    return deque([1])",
        "def f(x):\n    yield 1",
        "class A(list):\n    pass\ndef f(x):\n    return A([1])",
        "import string\ndef f(x):\n    return [1]",
        "def f(x):\n    return [].__class__([1])",
        "def f(x):\n    return sorted(x, cmp=1)",
        "def f(x):\n    del x\n    return [1]",
        "def f(x):\n    return [int(input())]",
    ):
        assert InMonty().run(program, tests).outcome == "unsupported", program
    for program in (
        "def f(x):\n    return list(map(str, x))",
        "def f(x):\n    return [i for i, y in enumerate(x)]",
        "def f(x):\n    return unknown",
        "def f(x):\n    return x.unknown",
        "def f(x:\n    return 1",
        "import numpy\ndef f(x):\n    return [1]",
        "class A:\n    pass\ndef f(x):\n    return A().b",
        "def g(x): pass\ndef f(x):\n    return g(x, key=1)",
        "def f(x):\n    return x + 1",
        "def f():\n    return [1]",
    ):
        assert InMonty().run(program, tests).outcome == "failed", program


# Cheating ------------------------------------------------------------------------------------------------------------

WRONG = "def f(x):\n    return 0\n"
HONEST = "def f(x):\n    return x + 1\n"
TESTS = """
def check(candidate):
    for x in range(3):
        assert abs(candidate(x) - x - 1) < 0.5
        assert candidate(x) == x + 1
"""
CHEATS = {
    "prints": "print('all tests passed')\nprint('{\"passed\": 3}')\n" + WRONG,
    "exits before": "import sys\nsys.exit(0)\n",
    "raises SystemExit": "raise SystemExit(0)\n",
    "ends the process": "import os\nos._exit(0)\n",
    "exits when called": "import sys\ndef f(x):\n    sys.exit(0)\n",
    "ends the process when called": "import os\ndef f(x):\n    os._exit(0)\n",
    "at exit": "import atexit, os\natexit.register(lambda: os._exit(0))\n" + WRONG,
    "is equal to everything": """
class Any:
    def __eq__(self, other):
        return True
    def __sub__(self, other):
        return self
    def __abs__(self):
        return 0
def f(x):
    return Any()
""",
    "is an int that is equal to everything": """
class Any(int):
    def __eq__(self, other):
        return True
    __sub__ = lambda self, other: self
    __abs__ = lambda self: 0
def f(x):
    return Any(0)
""",
    "redefines abs": "def abs(x):\n    return 0\n" + WRONG,
    "redefines abs for all": "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.range = lambda n: []\n" + WRONG,
    "redefines check": "def check(candidate):\n    pass\n" + WRONG,
    "redefines AssertionError": "import builtins\nbuiltins.AssertionError = SystemExit\n" + WRONG,
    "catches": "try:\n    assert False\nexcept AssertionError:\n    pass\n" + WRONG,
    "raises AssertionError": "def f(x):\n    raise AssertionError('passed')\n",
    "replaces the check of the frame": """
import sys
def f(x):
    frame = sys._getframe()
    while frame:
        for name in ('check', 'candidate', 'tests', 'x', 'judge'):
            frame.f_globals[name] = lambda *a: None
        frame = frame.f_back
    return 0
""",
    "traces": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: sys.exit(0))\n" + WRONG,
    "searches the garbage": """
import gc
def f(x):
    for thing in gc.get_objects():
        if isinstance(thing, dict) and 'passed' in thing:
            return thing['passed']
        if type(thing).__name__ == 'function' and thing.__name__ in ('judge', 'attempt', 'tell'):
            thing.__code__ = (lambda *a, **k: {'passed': 3}).__code__
    return 0
""",
    "speaks for the tests": """
import os
for number in range(3, 64):
    try:
        os.write(number, b'{"passed": 3}\\n{"value": null}\\n{"passed": 3}\\n{"passed": 3}\\n')
    except OSError:
        pass
""" + WRONG,
    "replaces what sends": "import json\njson.dumps = lambda *a, **k: '{\"passed\": 3}'\n" + WRONG,
    "reads the tests": """
import os, sys
def f(x):
    for line in open('/proc/self/cmdline').read().split('\\0') + sys.argv:
        if 'assert' in line and 'candidate' in line:
            return x + 1
    return 0
""",
    "answers without a program": "",
    "not finished": "def f(x):\n    return x +",
}  # fmt: skip


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_does_not_pass(name: str, back_end: type[InMonty | Bubblewrap]) -> None:
    assert back_end(limits=Limits(seconds=10.0)).run(CHEATS[name], prepare(TESTS, "f")).outcome != "passed"


def test_an_honest_program_passes(back_end: type[InMonty | Bubblewrap]) -> None:
    for noise in (
        "",
        "print('all tests passed')\n",
        "def abs(x):\n    return 0\n",
        "def check(candidate):\n    assert False\n",
    ):
        assert back_end(limits=Limits(seconds=10.0)).run(noise + HONEST, prepare(TESTS, "f")) == Run("passed")


def test_in_one_interpreter_these_cheats_work() -> None:
    """Faulty: program and tests in one file, judged by the exit code, as most published trainers do it."""
    fooled = []
    for name in (
        "exits before",
        "ends the process",
        "exits when called",
        "is equal to everything",
        "redefines abs for all",
    ):
        file = f"{CHEATS[name]}\n{TESTS}\ncheck(f)\n"
        if subprocess.run([sys.executable, "-I", "-c", file], capture_output=True).returncode == 0:
            fooled.append(name)
    assert len(fooled) == 5


# Tests made ready ----------------------------------------------------------------------------------------------------


def test_names_that_the_tests_do_not_define_are_the_programs() -> None:
    suite = prepare(
        "import math\nexpected = [1]\nfor x in expected:\n    assert math.floor(add(x, y=len([z for z in expected]))) == 2"
    )
    assert suite.calls == (("add", "add"),)
    assert prepare("assert sum(1, 2) == 3", "sum").calls == (("sum", "sum"),)
    assert prepare("def check(candidate):\n    assert candidate(1)", "Solution().solve").calls == (
        ("candidate", "Solution().solve"),
    )
    assert prepare("def check(candidate):\n    assert candidate(1)\ncheck(f)").calls == (("f", "f"),)


def test_helpers_of_the_prefix_are_the_tests_own() -> None:
    prefix = 'import math\n\ndef poly(xs, x):\n    return math.pi * 0 + xs[0] * x\n\n\ndef find(xs):\n    """Doc."""\n'
    suite = prepare("def check(candidate):\n    assert poly([2], candidate([2])) == 4", "find", prefix)
    assert suite.calls == (("candidate", "find"),)
    assert "def find" not in suite.source
    cheat = prefix + "    return 0\ndef poly(xs, x):\n    return 4"
    assert InMonty().run(cheat, suite).outcome == "failed"
    assert InMonty().run(prefix + "    return 2", suite) == Run("passed")
    assert "def poly" in prepare("assert f(poly([1], 1))", "f", "def poly(xs, x):\n    return 1\n\ndef f(x):\n").source


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ("", "never call the program"),
        ("assert 1 == 1", "never call the program"),
        ("assert f(", "no Python"),
        ("assert f(\0)", "no Python"),
        ("def check(candidate):\n    assert candidate(1)", "no entry_point"),
    ],
)
def test_tests_that_test_nothing_are_refused(tests: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(tests)


def test_more_threads_than_workers_do_not_block_each_other() -> None:
    tests = prepare("assert double(1) == 2")
    executor = InMonty(workers=1)
    with ThreadPoolExecutor(6) as threads:
        runs = list(threads.map(lambda _: executor.run("def double(x):\n    return 2 * x", tests), range(30)))
    assert runs == [Run("passed")] * 30
    executor.close()


def test_tests_that_never_come_to_call_the_program_decide_nothing(back_end: type[InMonty | Bubblewrap]) -> None:
    assert back_end().run(HONEST, prepare("if False:\n    assert f(1)")).outcome == "unsupported"


# Where there is none -------------------------------------------------------------------------------------------------


@pytest.fixture
def no_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    processes._fault_of_bubblewrap.cache_clear()
    yield
    processes._fault_of_bubblewrap.cache_clear()


def test_a_machine_without_bubblewrap_is_told_what_to_install(
    no_bubblewrap: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="apt install bubblewrap"):
        Bubblewrap().run(HONEST, ATTACK)


def test_a_user_without_namespaces_is_told_so(
    no_bubblewrap: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refuses = tmp_path / "bwrap"
    refuses.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    refuses.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="No permissions to create new namespace"):
        Bubblewrap().run(HONEST, ATTACK)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_suite_is_hashable_and_has_no_state() -> None:
    assert len({prepare("assert f(1)"), prepare("assert f(1)"), Suite("", ())}) == 2
