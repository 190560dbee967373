"""Options are the fields of frozen attrs classes. Read here: types, bounds and docstrings, and values for them.

The docstring under a field is no object at run time, so it is read from the class's source.
"""

from __future__ import annotations

import ast
import json
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import attrs
from attrs import frozen

from igpo_cli.plugins import KINDS

KIND_OF = {kind.protocol: kind.name for kind in KINDS.values()}
NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "none"}
PLURALS = {int: "whole numbers", float: "numbers", bool: "true or false values", str: "texts"}


@frozen(kw_only=True)
class Option:
    """One option: a field of an attrs class."""

    name: str
    type: Any
    default: Any
    """attrs.NOTHING where a value is required."""
    help: str
    bounds: str
    """What its validators say, such as ">= 1" or "0 to 1"."""

    @property
    def kind(self) -> str | None:
        """The kind of plug-in that the value (or each of its values) is; None for plain values."""
        arms = [self.type, *get_args(self.type)]
        return next((KIND_OF[arm.__name__] for arm in arms if getattr(arm, "_is_protocol", False)), None)

    @property
    def required(self) -> bool:
        return self.default is attrs.NOTHING


def options(cls: type[Any]) -> Mapping[str, Option]:
    """The options of an attrs class by name, in their order."""
    attrs.resolve_types(cls)
    docs = {name: text for base in reversed(cls.__mro__) for name, text in describe(base)[1].items()}
    return {
        field.name: Option(
            name=field.name,
            type=field.type,
            default=field.default.factory() if isinstance(field.default, attrs.Factory) else field.default,  # type: ignore[arg-type]
            help=docs.get(field.name, ""),
            bounds=_bounds(field.validator),
        )
        for field in attrs.fields(cls)
    }


def _bounds(validator: Any) -> str:
    """The bounds that attrs' own comparisons state; other validators explain themselves when they fail."""
    found = dict(_comparisons(validator))
    if found.keys() == {">=", "<="}:
        return f"{found['>=']} to {found['<=']}"
    return ", ".join(f"{sign} {bound}" for sign, bound in found.items())


def _comparisons(validator: Any) -> Iterator[tuple[str, str]]:
    if hasattr(validator, "compare_op"):
        yield validator.compare_op, f"{validator.bound:.12g}"
    for part in (*getattr(validator, "_validators", ()), getattr(validator, "validator", None)):
        if part is not None:
            yield from _comparisons(part)


# Docstrings ----------------------------------------------------------------------------------------------------------


def describe(cls: type[Any]) -> tuple[str, Mapping[str, str]]:
    """First line of a class's docstring, and the docstring under each of its own fields."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)  # inspect.getsource would wake lazy modules
    return describe_source(Path(file), cls.__qualname__) if file and file.endswith(".py") else ("", {})


@cache
def describe_source(file: Path, name: str) -> tuple[str, Mapping[str, str]]:
    """The same from a file, so that plug-ins are listed without importing any; LookupError where it has no such class."""
    body: list[ast.stmt] = _tree(file).body
    for part in name.replace(".<locals>", "").split("."):
        scopes = [node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == part]
        if not scopes:
            raise LookupError(f"no class {name} in {file.name}")
        body = scopes[-1].body
    fields = {
        node.target.id: " ".join(text.split("\n\n")[0].split())
        for node, below in pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and (text := _string(below))
    }
    return _string(body[0]).strip().partition("\n")[0], fields


def _string(node: ast.stmt) -> str:
    value = node.value if isinstance(node, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


# Values --------------------------------------------------------------------------------------------------------------


def conform(value: Any, type_: Any) -> Any:
    """The value as its type wants it, or a ValueError that says what it must be.

    Strict: 1.5 and true are no whole numbers, but 1 is a number. In TOML, which has no null, "none" is None.
    """
    try:
        return _conform(value, type_)
    except ValueError:
        raise ValueError(f"must be {noun(type_)}") from None


def _conform(value: Any, type_: Any) -> Any:
    origin, args = get_origin(type_), get_args(type_)
    if type_ is Any or type(value) is type_:
        return value
    if type_ is float and type(value) is int:
        return float(value)
    if origin in (Union, UnionType):
        if NoneType in args and value in (None, "none"):
            return None
        for arm in args:
            with suppress(ValueError):
                return _conform(value, arm)
    if origin is Literal and any(value == choice and type(value) is type(choice) for choice in args):
        return value
    if origin is tuple and isinstance(value, list | tuple):
        arms = args[:1] * len(value) if args[-1] is ... else args
        return tuple(_conform(part, arm) for part, arm in zip(value, arms, strict=True))
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {key: _conform(part, args[1]) for key, part in value.items()}
    raise ValueError(value)


def noun(type_: Any) -> str:
    """What a value of the type is, for an error message."""
    origin, args = get_origin(type_), get_args(type_)
    if origin in (Union, UnionType):
        return " or ".join(map(noun, args))
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin is tuple:
        many = args[-1] is ...
        return f"a list of {'' if many else f'{len(args)} '}{PLURALS.get(args[0], 'values')}"
    return "a table" if origin in (dict, Mapping) else NOUNS.get(type_, getattr(type_, "__name__", str(type_)))


def from_text(text: str, type_: Any) -> Any:
    """The value that a flag's text means; text that means none is returned as it is, for `conform` to refuse.

    Lists are separated by commas, or written as in TOML: `0.9,0.99`, `["a, b"]`.
    """
    origin, args = get_origin(type_), get_args(type_)
    try:
        if origin in (Union, UnionType):
            return next((value for arm in args if (value := from_text(text, arm)) != text), text)
        if origin is Literal:
            return next((choice for choice in args if str(choice) == text), text)
        if type_ is int or type_ is float:
            return type_(text)
        if type_ is bool:
            return {"true": True, "false": False}.get(text, text)
        if origin is tuple and not text.startswith("["):
            return [from_text(part.strip(), args[0]) for part in text.split(",") if part]
        if origin in (tuple, dict, Mapping):
            return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        pass
    return text


def metavar(type_: Any) -> str:
    """How --help names the values of a type."""
    origin, args = get_origin(type_), get_args(type_)
    if origin in (Union, UnionType):
        return "|".join("none" if arm is NoneType else metavar(arm) for arm in args)
    if origin is Literal:
        return "|".join(map(str, args))
    if origin is tuple:
        return f"{metavar(args[0])},..." if args[-1] is ... else ",".join(map(metavar, args))
    return {int: "INT", float: "FLOAT", str: "TEXT", bool: "BOOL"}.get(type_, "TABLE")


def choices(type_: Any) -> list[str]:
    """The values of a type that has few of them, as one types them; empty for others."""
    origin, args = get_origin(type_), get_args(type_)
    if origin in (Union, UnionType):
        return [choice for arm in args for choice in choices(arm)]
    return [str(arm) for arm in args] if origin is Literal else ["none"] if type_ is NoneType else []


def show(value: Any) -> str:
    """A value as it stands in TOML, in one line."""
    match value:
        case bool():
            return str(value).lower()
        case None:
            return '"none"'
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML allows no DEL, JSON does
        case list() | tuple():
            return f"[{', '.join(map(show, value))}]"
        case Mapping():
            return f"{{{', '.join(f'{key} = {show(part)}' for key, part in value.items())}}}"
        case _:
            return str(value)


def brief(value: Any) -> str:
    """A value as one types it behind a flag."""
    if isinstance(value, list | tuple):
        return ",".join(map(brief, value)) or "none"
    return "none" if value is None else value if isinstance(value, str) and value else show(value)
