"""Writes the reference in cli.md from the commands themselves; what stands above it there is written by hand.

    python docs/cli_page.py

A test holds the page to it. Types, defaults and texts are those that --help shows.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from attrs import frozen
from rich.text import Text

from igpo_cli.commands import EPILOG, App
from igpo_cli.main import COMMANDS
from igpo_cli.options import metavar
from igpo_cli.plugins import KINDS

PAGE = Path(__file__).parent / "cli.md"
MARK = "<!-- what follows is written by cli_page.py -->\n"


@frozen
class Parameter:
    """An argument or option as a function declares it."""

    name: str
    type: Any
    info: Any
    default: Any

    @property
    def argument(self) -> bool:
        return isinstance(self.info, typer.models.ArgumentInfo)

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def panel(self) -> str:
        """The heading under which --help shows a flag of the run."""
        return Text.from_markup(self.info.rich_help_panel or "").plain

    @property
    def called(self) -> str:
        """How one types it."""
        if self.argument:
            value = self.info.metavar or self.name.upper()
            return value if self.required or value[0] == "[" else f"[{value}]"
        value = self.info.metavar or ("PATH" if self.type is Path else metavar(self.type))
        flags = [text for text in (self.info.default, *(self.info.param_decls or ())) if isinstance(text, str)]
        switch = bool in (self.type, *get_args(self.type))
        if not flags:
            flag = "--" + self.name.replace("_", "-")
            flags = [flag, flag.replace("--", "--no-", 1)] if switch else [flag]
        return ", ".join(flags) + ("" if switch and not self.info.metavar else f" {value}")

    @property
    def text(self) -> str:
        """What --help says of it."""
        says = [Text.from_markup(self.info.help or "").plain.strip()]
        if self.required:
            says.append("Required.")
        elif self.default not in (None, []) and self.default is not False and self.info.show_default:
            says.append(f"Default: {self.default if self.default is not True else 'on'}.")
        return " ".join(filter(None, says))


def parameters(function: Callable[..., Any]) -> list[Parameter]:
    """Those of a command, in their order."""
    hints = get_type_hints(function, include_extras=True)
    found = []
    for name, each in inspect.signature(function).parameters.items():
        hint = each.annotation if get_origin(each.annotation) is Annotated else hints[name]
        type_, info = get_args(hint) if get_origin(hint) is Annotated else (hint, typer.Option())
        arms = [arm for arm in get_args(type_) if arm is not type(None)]
        if type(None) in get_args(type_):
            type_ = arms[0]
        if get_origin(type_) is list:
            (type_,) = get_args(type_)
        found.append(Parameter(name, type_, info, each.default))
    return found


def commands() -> Iterator[tuple[str, Any]]:
    """The words of every command and how it is registered, with the flags that it takes."""
    for name in COMMANDS:
        for command in registered(name):
            words = [name] if called(command) == name else [name, called(command)]
            yield " ".join(words), next(each for each in registered(*words) if called(each) == words[-1])


def registered(*words: str) -> list[Any]:
    """A command, or those of a group, as `igpo WORDS` has them."""
    app = App(words)
    importlib.import_module(f"igpo_cli.commands.{words[0].replace('-', '_')}").register(app)
    return [
        *app.registered_commands,
        *(each for group in app.registered_groups for each in group.typer_instance.registered_commands),
    ]


def called(command: Any) -> str:
    return str(command.name or command.callback.__name__)


def table(rows: list[tuple[str, ...]], *titles: str) -> str:
    """Markdown in which a bar is no border."""
    lines = [titles, ("---",) * len(titles), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def own(found: list[Parameter]) -> list[tuple[str, ...]]:
    """Rows of a command's own parameters; a bar within code would show its backslash."""
    return [(f"`{each.called.replace('|', '/')}`", each.text) for each in found]


def section(words: str, command: Any) -> str:
    """One command."""
    found = parameters(command.callback)
    run = [each for each in found if each.name.startswith("flag_")]
    arguments = " ".join(each.called for each in found if each.argument)
    parts = [f"### igpo {words}", inspect.cleandoc(command.callback.__doc__ or "")]
    parts.append(f"```text\nigpo {' '.join(filter(None, (words, '[OPTIONS]', arguments)))}\n```")
    rows = own([each for each in found if each not in run])
    if rows:
        parts.append(table(rows, "option", "what it does"))
    if shown := list(dict.fromkeys(place(each.panel) for each in run if not each.info.hidden)):
        names = "all" if len(shown) > len(KINDS) else "those of " + ", ".join(shown)
        parts.append(f"And the [options of a run](#options-of-a-run); `--help` shows {names}.")
    return "\n\n".join(parts)


def place(panel: str) -> str:
    """The table of a panel of --help."""
    if not panel.startswith("["):
        return "the top level"
    path = panel[1:].partition("]")[0]
    return f"`[{'eval.NAME' if path.startswith('eval.') else path}]`"


def options_of_a_run(found: list[Parameter]) -> str:
    """The flags that do not depend on a chosen plug-in, by table."""
    tables: dict[str, list[tuple[str, ...]]] = {}
    for each in found:
        path = each.panel[1:].partition("]")[0] if each.panel.startswith("[") else each.panel
        if path in KINDS or not each.name.startswith("flag_") or each.info.hidden:
            continue
        title = {"Run": "The run", "IGPO": "IGPO"}.get(path, f"[{path}]")
        flag = each.info.default if isinstance(each.info.default, str) else each.info.param_decls[0]
        if path.startswith("eval."):
            title, flag = "[eval.NAME]", flag.replace(path, "eval.NAME")
        row = (f"`{flag}`", f"`{each.info.metavar}`", each.text)
        if row[0] not in {known[0] for known in tables.setdefault(title, [])}:
            tables[title].append(row)
    return "\n\n".join(f"### {title}\n\n{table(rows, 'flag', 'now', 'what it does')}" for title, rows in tables.items())


def reference() -> str:
    """Everything below the mark."""
    every = dict(commands())
    panels: dict[str, list[str]] = {}
    for words, command in every.items():
        panels.setdefault(COMMANDS[words.split()[0]], []).append(section(words, command))
    parts = [f"## {panel}\n\n" + "\n\n".join(sections) for panel, sections in panels.items()]
    kinds = ", ".join(f"`--{kind}`" for kind in KINDS)
    parts.append(
        f"## Options of a run\n\n{EPILOG}\n\nThe column *now* shows the values of a bare `igpo train`; `igpo train --help` "
        f"shows them for any file, preset and flags. Beside these there are {kinds}, each with the options of the "
        "plug-in that it names: `igpo plugins` lists them, `igpo plugins show KIND NAME` tells their options, and "
        "[plug-ins](plugins.md) how to write one.\n\n" + options_of_a_run(parameters(every["train"].callback))
    )
    return "\n\n".join(parts) + "\n"


def page(written: str) -> str:
    """The whole page, from what is written by hand in `written`."""
    return written.partition(MARK)[0] + MARK + "\n" + reference()


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
