"""The package costs nothing until it is used: the command line reads options and help from it without torch."""

from __future__ import annotations

import ast
import inspect
import itertools
import subprocess
import sys
from importlib import import_module

import attrs
import pytest

import igpo_rl
from igpo_rl import plugin

PATHS = [
    path
    for kind in ("chunkers", "injections", "filters", "estimators", "losses")
    for path in getattr(plugin, f"igpo_{kind}")().values()
]
OPTIONS = [*PATHS, "igpo_rl.igpo:IGPO", "igpo_rl.trainer:Optimizer", "igpo_rl.sft:SFT"]


def test_options_of_every_plugin_can_be_read_without_torch():
    modules = sorted({path.split(":")[0] for path in OPTIONS} | {"igpo_rl", "igpo_rl.plugin"})
    code = (
        f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
        "import igpo_rl.igpo, igpo_rl.trainer\nigpo_rl.igpo.IGPO(), igpo_rl.trainer.Optimizer()\n"
        "heavy = {'torch._C', 'numpy', 'accelerate', 'transformers'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("path", OPTIONS)
def test_every_option_has_a_plain_type_a_default_and_a_line_of_help(path):
    module, _, name = path.partition(":")
    made = getattr(import_module(module), name)
    assert inspect.getdoc(made)
    bodies = [ast.parse(inspect.getsource(base)).body[0].body for base in made.__mro__[:-1]]
    helped = {
        before.target.id
        for body in bodies
        for before, after in itertools.pairwise(body)
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }
    assert {one.name for one in attrs.fields(made)} <= helped
    made()


def test_public_names_resolve():
    assert igpo_rl.__version__
    assert all(getattr(igpo_rl, name) is not None for name in igpo_rl.__all__)
