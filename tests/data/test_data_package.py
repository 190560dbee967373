"""The package as a third party meets it: cheap to import, honest in its stub, documented by code that runs."""

from __future__ import annotations

import ast
import importlib
import random
import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

import igpo_data
from igpo_data import Exact, Lists, Task, Verdict
from igpo_data.plugin import igpo_tasks, igpo_verifiers
from igpo_data.testing import check_task_source, check_verifier

PACKAGE = Path(igpo_data.__file__).parent
PLUGINS = igpo_tasks() | igpo_verifiers()
HEAVY = {"torch", "numpy", "datasets", "sympy", "math_verify", "reasoning_gym", "transformers", "pyarrow"}


def test_plugin_modules_import_nothing_heavy() -> None:
    modules = sorted({target.split(":")[0] for target in PLUGINS.values()} | {"igpo_data.testing", "igpo_data.plugin"})
    code = f"""
import sys, igpo_data
assert not set(sys.modules) & {{"attrs", "igpo_data.task"}}, "importing the package imports its parts"
import {", ".join(modules)}
print(*sorted({HEAVY!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("target", PLUGINS.values(), ids=PLUGINS)
def test_every_plugin_is_a_frozen_options_class_with_help_for_every_field(target: str) -> None:
    module_name, class_name = target.split(":")
    module = importlib.import_module(module_name)
    kind = getattr(module, class_name)
    assert attrs.has(kind)
    assert getattr(igpo_data, class_name) is kind
    (definition,) = [
        node
        for node in ast.parse(Path(module.__file__ or "").read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == class_name
    ]
    assert ast.get_docstring(definition)
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign):
            assert isinstance(following, ast.Expr)
            assert isinstance(following.value, ast.Constant)
            text = str(following.value.value)
            assert "\n" not in text
            assert len(text.split(". ")[0]) <= 100
    assert all(field.kw_only and field.init for field in attrs.fields(kind))


def test_the_stub_exports_what_exists() -> None:
    for name in igpo_data.__all__:
        assert getattr(igpo_data, name) is not None
    with pytest.raises(AttributeError):
        igpo_data.nothing  # noqa: B018


def test_the_readme_runs() -> None:
    readme = (PACKAGE.parents[1] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert blocks
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], capture_output=True, text=True, check=True, timeout=120
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "rotl zip rev : d e c k n ?"
    assert lines[1] == "rotl e c k n d zip e n c d k rev " + "_" * 24
    assert lines[2:-1] == ["1.0 True 0.50 ", "0.0 False not 0.5 but 0.6 ", "0.0 False 9^{9^{9^{9}}} timeout"]
    assert lines[-1] == "0.5 False True"


@attrs.frozen(kw_only=True)
class Broken:
    """A source and verifier with one fault at a time."""

    fault: str = ""

    def __call__(self, first: str, task: Task | None = None) -> object:
        if task is None:
            return self.tasks()
        if self.fault == "raises" and len(first) > 1_000:
            raise RecursionError
        correct = (
            first.strip() == "12"
            or (self.fault == "garbage" and "9" in first)
            or (self.fault == "empty" and first == task.answer)
        )
        return Verdict(reward=float(correct), correct=correct)

    def tasks(self) -> list[Task]:
        if self.fault == "none":
            return []
        if self.fault == "global":
            random.random()
        key = "" if self.fault == "key" else "a"
        spans = {"order": ((5, 6), (1, 2)), "everything": ((0, 9),)}.get(self.fault, ((5, 6),))
        return [
            Task(key=k, prompt="p", answer="2", trace="1 + 1 = 2", answer_spans=spans)
            for k in (key, "a" if self.fault == "twice" else "b")
        ]


def test_the_conformance_checks_accept_what_is_right_and_name_what_is_wrong() -> None:
    task = Task(key="t", prompt="", answer="12")
    check_task_source(Broken())  # type: ignore[arg-type]
    check_verifier(Broken(), task, ["12", " 12 "], ["13"])  # type: ignore[arg-type]
    for fault, message in [
        ("none", "is empty"),
        ("key", "has no key"),
        ("twice", "keys occur twice"),
        ("order", "out of order"),
        ("everything", "nothing is left"),
        ("global", "draws from the global generator"),
    ]:
        with pytest.raises(AssertionError, match=message):
            check_task_source(Broken(fault=fault))  # type: ignore[arg-type]
    for fault, message in [("garbage", "judged Verdict"), ("empty", "an empty completion")]:
        with pytest.raises(AssertionError, match=message):
            check_verifier(Broken(fault=fault), task, ["12"])  # type: ignore[arg-type]
    with pytest.raises(RecursionError):
        check_verifier(Broken(fault="raises"), task, ["12"])  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="judged Verdict"):
        check_verifier(Exact(), task, ["12"])
    with pytest.raises(AssertionError, match="at least one right"):
        check_verifier(Exact(), task, [])


def test_sources_that_draw_afresh_or_are_not_frozen_are_named() -> None:
    @attrs.define
    class Loose:
        """Not frozen."""

        calls: int = 0

        def __call__(self, split: str) -> list[Task]:
            self.calls += 1
            return [Task(key=str(self.calls), prompt="p", answer="a")]

    with pytest.raises(AssertionError, match="not frozen"):
        check_task_source(Loose())

    calls = iter(range(10))

    @attrs.frozen
    class Fresh:
        """Other tasks at every call."""

        def __call__(self, split: str) -> list[Task]:
            return [Task(key=str(next(calls)), prompt="p", answer="a")]

    with pytest.raises(AssertionError, match="two calls give different tasks"):
        check_task_source(Fresh())

    @attrs.frozen
    class Closed(Lists):
        """Words that its vocabulary lacks."""

        def vocabulary(self) -> tuple[str, ...]:
            return ("rev",)

    with pytest.raises(AssertionError, match=r"words outside vocabulary"):
        check_task_source(Closed())


def test_no_global_random_state_is_touched() -> None:
    import random

    import numpy

    before = random.getstate()
    Lists(sft_problems=10)("sft")
    for dataset in ("gsm_symbolic", "pool_matrix"):
        numpy_before = numpy.random.get_state()[1].tolist()
        igpo_data.Procedural(dataset=dataset, train_problems=10, test_problems=10)("train")
        assert numpy.random.get_state()[1].tolist() == numpy_before
    assert random.getstate() == before
    # Faulty: the library by itself.
    import reasoning_gym

    reasoning_gym.create_dataset("pool_matrix", seed=0, size=1)[0]
    assert numpy.random.get_state()[1].tolist() != numpy_before
