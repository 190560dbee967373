from __future__ import annotations

import inspect
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from attrs import field, frozen, validators
from hypothesis import example, given
from hypothesis import strategies as st

from igpo_cli.commands import Reading, canonical
from igpo_cli.config import SECTIONS, algorithm, section
from igpo_cli.options import brief, conform, describe, describe_source, from_text, metavar, noun, options, show
from igpo_cli.plugins import Catalogue
from igpo_cli.settings import Run
from igpo_data import Verifier

CATALOGUE = Catalogue.installed()
CLASSES = [CATALOGUE.load(row.kind, row.name) for row in CATALOGUE.rows]
CLASSES += [Run, algorithm(), *(section(name) for name in (*SECTIONS, "sft", "eval"))]


# What a class says ---------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Below:
    """The class below.

    More of it.
    """

    steps: int = field(default=3, validator=[validators.ge(1), validators.le(9)])
    """How many steps,
    in two lines.

    And a second paragraph.
    """
    share: float | None = field(default=None, validator=validators.optional(validators.lt(0.5)))
    """A share."""
    bare: str = ""


@frozen(kw_only=True)
class Above(Below):
    """The class above."""

    steps: int = 4
    """Other steps."""
    path: str
    """Where."""
    list_: tuple[int, ...] = field(factory=tuple)
    verifier: Verifier = field(factory=str)
    several: tuple[Verifier, ...] = ()


def test_options_are_fields_with_docstrings_bounds_and_defaults() -> None:
    found = options(Below)
    assert [(each.name, each.type, each.default, each.bounds, each.help) for each in found.values()] == [
        ("steps", int, 3, "1 to 9", "How many steps, in two lines."),
        ("share", float | None, None, "< 0.5", "A share."),
        ("bare", str, "", "", ""),
    ]
    assert describe(Below)[0] == "The class below."


def test_a_subclass_inherits_docstrings_and_may_rewrite_them() -> None:
    found = options(Above)
    assert (found["share"].help, found["steps"].help, found["path"].help) == ("A share.", "Other steps.", "Where.")
    assert found["path"].default is attrs.NOTHING
    assert found["list_"].default == ()
    assert [found[name].kind for name in ("verifier", "several", "path")] == ["verifier", "verifier", None]


def test_local_classes_and_sources() -> None:
    @frozen
    class Local:
        """A local class."""

        value: int = 1
        """Its value."""

    assert describe(Local) == ("A local class.", {"value": "Its value."})
    assert describe(int) == ("", {})
    assert describe_source(Path(__file__), "Below")[0] == "The class below."
    with pytest.raises(LookupError, match=r"no class Beneath in test_options\.py"):
        describe_source(Path(__file__), "Beneath")


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_option_of_the_house_has_help_that_fits(cls: type[Any]) -> None:
    summary, _ = describe(cls)
    assert summary.endswith(".")
    for option in options(cls).values():
        first = option.help.split(". ")[0]
        assert first, f"{cls.__name__}.{option.name} has no docstring"
        assert option.help.endswith("."), f"{cls.__name__}.{option.name}: {option.help}"
        assert len(first) <= 120, f"{cls.__name__}.{option.name}: {first}"
        assert metavar(option.type) != "TABLE" or option.kind, f"{cls.__name__}.{option.name} cannot be a flag"


def test_reading_docstrings_wakes_no_lazy_module() -> None:
    code = """
import sys
from igpo_cli.options import describe, options
from igpo_cli.plugins import Catalogue
catalogue = Catalogue.installed()
for row in catalogue.rows:
    options(catalogue.load(row.kind, row.name))
heavy = [name for name in ("torch.nn", "transformers", "datasets", "sympy", "numpy") if name in sys.modules]
print(heavy)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# Values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "type_", "wanted"),
    [
        (3, int, 3),
        (3, float, 3.0),
        (True, bool, True),
        ("x", str, "x"),
        ("none", int | None, None),
        (None, str | None, None),
        (3, int | None, 3),
        (3, float | None, 3.0),
        ("b", Literal["a", "b"], "b"),
        ([1, 2.5], tuple[float, float], (1.0, 2.5)),
        ([], tuple[str, ...], ()),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        ({"a": 1}, Mapping[str, int], {"a": 1}),
        ([object], Any, [object]),
        ([["a"], []], tuple[tuple[str, ...], ...], (("a",), ())),
    ],
)
def test_values_conform(value: object, type_: Any, wanted: object) -> None:
    found = conform(value, type_)
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    ("value", "type_", "problem"),
    [
        (1.5, int, "must be a whole number"),
        (1.0, int, "must be a whole number"),
        (True, int, "must be a whole number"),
        (True, float, "must be a number"),
        (1, bool, "must be true or false"),
        (1, str, "must be text"),
        ("none", int, "must be a whole number"),
        (1.5, int | None, "must be a whole number or none"),
        (1, Literal["1", True], "must be '1' or True"),
        ("ab", tuple[str, ...], "must be a list of texts"),
        ([1.0, 2.0, 3.0], tuple[float, float], "must be a list of 2 numbers"),
        (["a", 1], tuple[str, ...], "must be a list of texts"),
        ({"a": "b"}, dict[str, int], "must be a table"),
        ("x", dict[str, int], "must be a table"),
    ],
)
def test_values_that_do_not_conform(value: object, type_: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{problem}$"):
        conform(value, type_)


@pytest.mark.parametrize(
    ("type_", "words"),
    [
        (int, "INT"),
        (float | None, "FLOAT|none"),
        (Literal["a", "b"], "a|b"),
        (tuple[float, float], "FLOAT,FLOAT"),
        (tuple[str, ...], "TEXT,..."),
        (dict[str, int], "TABLE"),
    ],
)
def test_metavar(type_: Any, words: str) -> None:
    assert metavar(type_) == words
    assert noun(type_)


TYPED = st.one_of(
    st.tuples(st.just(int), st.integers()),
    st.tuples(st.just(float), st.floats(allow_nan=False)),
    st.tuples(st.just(bool), st.booleans()),
    st.tuples(st.just(str), st.text(st.characters(codec="utf-8"), min_size=1)),
    st.tuples(st.just(int | None), st.none() | st.integers()),
    st.tuples(st.just(Literal["a", 2]), st.sampled_from(["a", 2])),
    st.tuples(st.just(tuple[float, float]), st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False))),
    st.tuples(st.just(tuple[int, ...]), st.lists(st.integers(), min_size=1).map(tuple)),
)


@given(TYPED)
def test_what_is_shown_behind_a_flag_can_be_typed_there(pair: tuple[Any, Any]) -> None:
    type_, value = pair
    assert conform(from_text(brief(value), type_), type_) == value


@given(TYPED)
@example((str, "\x7f"))
def test_what_is_shown_in_toml_is_toml(pair: tuple[Any, Any]) -> None:
    type_, value = pair
    text = show(value)
    assert "\n" not in text
    assert conform(tomllib.loads(f"value = {text}")["value"], type_) == value


@pytest.mark.parametrize(
    ("text", "type_", "wanted"),
    [
        (".5", float, 0.5),
        ("1e-4", float, 1e-4),
        ("1", float, 1.0),
        ("x", int, "x"),
        ("a,b", tuple[str, ...], ["a", "b"]),
        ("a, b", tuple[str, ...], ["a", "b"]),
        ('["a,b", "c"]', tuple[str, ...], ["a,b", "c"]),
        ("[", tuple[str, ...], "["),
        ("", tuple[str, ...], []),
        ("{a = 1}", dict[str, int], {"a": 1}),
        ("true", bool, True),
        ("yes", bool, "yes"),
        ("2", Literal[1, 2], 2),
        ("7", str, "7"),
        ("7", str | None, "7"),
        ("none", int | None, "none"),
    ],
)
def test_text_is_read_as_its_type(text: str, type_: Any, wanted: object) -> None:
    found = from_text(text, type_)
    assert found == wanted
    assert type(found) is type(wanted)


# The first reading of argv -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("--model.mask_id", "--model.mask-id"),
        ("--model.mask_id=a_b", "--model.mask-id=a_b"),
        ("--sampler.name", "--sampler"),
        ("--sampler.name=llada", "--sampler=llada"),
        ("--eval.my_set.samples", "--eval.my_set.samples"),
        ("--name", "--name"),
        ("--score_rows", "--score-rows"),
        ("run_me.toml", "run_me.toml"),
        ("-v", "-v"),
    ],
)
def test_spellings_of_a_flag(word: str, wanted: str) -> None:
    assert canonical(word) == wanted


def read(line: str) -> Reading:
    own = [
        inspect.Parameter("resume", inspect.Parameter.KEYWORD_ONLY, annotation=Path | None),
        inspect.Parameter("force", inspect.Parameter.KEYWORD_ONLY, annotation=bool),
    ]
    return Reading.of(line.split(), own)


@pytest.mark.parametrize(
    ("line", "file", "flags"),
    [
        ("", None, {}),
        ("run.toml", "run.toml", {}),
        ("--sampler llada --sampler.steps=5", None, {"sampler": "llada", "sampler.steps": "5"}),
        ("--seed -1 run.toml", "run.toml", {"seed": "-1"}),
        ("--score-rows 8 --group=4", None, {"score_rows": "8", "group": "4"}),
        ("--advantage-std run.toml", "run.toml", {"advantage_std": True}),
        ("--no-advantage-std run.toml", "run.toml", {"advantage_std": True}),
        ("--sampler.stop-at-eos run.toml", "run.toml", {"sampler.stop_at_eos": True}),
        ("--task.path=data.toml", None, {"task.path": "data.toml"}),
        ("--resume runs/a.toml run.toml --force --group 4", "run.toml", {"group": "4"}),
        ("--force run.toml", "run.toml", {}),
        ("--plugin a.py --plugin=b.py", None, {"plugins": ["a.py", "b.py"]}),
        ("--eval.my-set.samples 3", None, {"eval.my-set.samples": "3"}),
        ("--help --group 4", None, {"group": "4"}),
        ("--group 4 -- --group 5", None, {"group": "4"}),
    ],
)
def test_the_first_reading(line: str, file: str | None, flags: dict[str, Any]) -> None:
    found = read(line)
    assert found.file == (Path(file) if file else None)
    assert found.flags == flags


def test_the_first_reading_finds_the_preset() -> None:
    assert read("--preset tiny").preset == read("--preset=tiny").preset == "tiny"
