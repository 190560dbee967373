"""One module a command; each has `register(app)`. Here: how a command is declared whose options are those of a run.

argv is read twice. The first reading finds what decides which options there are: preset, file, and names of plug-ins.
Then Typer reads it with these options, so --help shows no option of a plug-in that was not chosen.
"""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial, update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

import typer
from attrs import NOTHING, define, evolve, field, frozen
from typer.core import TyperCommand, TyperGroup

from igpo_cli import errors
from igpo_cli.completion import Offer, among, plugin_names, preset_names, run_names_and_files

if TYPE_CHECKING:
    from igpo_cli.config import Source
    from igpo_cli.plugins import Catalogue

Function = TypeVar("Function", bound=Callable[..., None])

EPILOG = (
    "Beside a flag stands its value without it. A flag is its path in the TOML file. Every table may be overridden for "
    "fine-tuning or for one evaluation: --sft.optimizer.lr 0.02, --eval.heldout.sampler.temperature 0."
)


class Command(TyperCommand):
    """A command in whose help no type stands behind a switch, which takes no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        return plain_switches(super().get_params(ctx))


class Group(TyperGroup):
    """The same of a group of commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        return plain_switches(super().get_params(ctx))


def plain_switches(parameters: list[Any]) -> list[Any]:
    """The parameters; a switch that names no value of its own has an empty one."""
    for each in parameters:
        if getattr(each, "is_flag", False) and each.metavar is None:
            each.metavar = ""
    return parameters


class Commands(typer.Typer):
    """A Typer with commands of this kind."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=Group, rich_markup_mode="rich", **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        return super().command(name, **{"cls": Command, **options})


class App(Commands):
    """The igpo command for one argv."""

    def __init__(self, argv: Sequence[str], rest: Sequence[str] = (), verbose: bool = False) -> None:
        super().__init__(
            name="igpo",
            help="Post-train masked-diffusion language models: fine-tune, reinforce with inpainting, sample, evaluate.",
            add_completion=True,
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["--help", "-h"]},
        )
        self.argv = argv
        self.launched = ["-v", *argv] if verbose else list(argv)
        """What a process that this one starts does the same with."""
        self.rest = list(rest)
        """What stood behind a --, for the program that a command runs."""
        self._groups: dict[str, typer.Typer] = {}

    @cached_property
    def catalogue(self) -> Catalogue:
        """The installed plug-ins; what is wrong with them is said once."""
        from igpo_cli.plugins import Catalogue

        catalogue = Catalogue.installed()
        for warning in catalogue.warnings:
            errors.warn(warning)
        return catalogue

    def group(self, name: str, summary: str) -> typer.Typer:
        """The group of commands `igpo NAME ...`, made once."""
        if name not in self._groups:
            self._groups[name] = Commands(no_args_is_help=True)
            self.add_typer(self._groups[name], name=name, help=summary)
        return self._groups[name]


def config_command(
    app: App,
    name: str,
    *,
    tables: Sequence[str] | None = None,
    preset: str | None = "tiny",
    vary: tuple[str, str] | Callable[[Reading], Varied] | None = None,
) -> Callable[[Function], Function]:
    """Declare a command whose options are those of a run.

        @config_command(app, "train")
        def train(config: Config, *, resume: Annotated[Path | None, typer.Option(help="...")] = None) -> None:
            '''The first line is the command's help.'''

    The function gets the resolved `Config`, then its own parameters, which are declared as Typer wants them. The command
    itself adds the argument FILE.toml, --preset, --plugin and the flags of every table. `name` may have two words, of
    which the first is a group made by `app.group`. `tables` are the ones that --help shows (default: all; "" is the top
    level, "eval" every [eval.NAME]); the others' flags work all the same. Without FILE and --preset, `preset` is taken.

    `vary=("compare", "sampler")`: the function's own --compare A,B names samplers, and instead of one `Config` the
    function gets a dict of them by these names ("" without --compare). Each takes the options that its plug-in has. A
    function in its place makes the configurations of what the first reading found.

    A function's own --suite NAME lays the evaluations of that name, or of a TOML file, over the configuration.
    """
    words = name.split()
    parent = app.group(words[0], "") if len(words) > 1 else app

    def declare(function: Function) -> Function:
        own = own_parameters(function)
        flags: dict[str, Flag] = {}
        varied = Varied({"": ()}, preset)
        if list(app.argv[: len(words)]) == words:
            reading = Reading.of(app.argv[len(words) :], own)
            varied = varied_by(reading, preset, vary)
            found = {
                (flag.path, flag.off): flag
                for over in reversed(varied.over.values())  # the first one's values are shown
                for flag in narrowed(app.catalogue, reading, varied, tables, over)
            }
            for number, flag in enumerate(found.values()):
                parameter = flag.parameter.replace(name=f"flag_{number}")
                flags[parameter.name] = evolve(flag, parameter=parameter)

        def command(
            *,
            config_file: Path | None,
            config_preset: str | None,  # noqa: ARG001 the first reading has it
            config_plugins: list[str],
            **values: Any,
        ) -> None:
            from igpo_cli.config import resolve

            if config_file and config_file.suffix != ".toml":
                raise errors.UsageError(no_file(config_file))
            given = {
                flags[key].path: flags[key].value(it) for key, it in values.items() if key in flags and it is not None
            }
            if config_plugins:
                given["plugins"] = config_plugins
            suite = values.get("suite")
            configs = {
                each: resolve(varied.preset, config_file, given, app.catalogue, over, suite, varied.under)
                for each, over in varied.over.items()
            }
            mine = {key: value for key, value in values.items() if key not in flags}
            function(configs if vary else configs[""], **mine)

        _sign(command, function, [*common(preset), *own, *(flag.parameter for flag in flags.values())])
        parent.command(words[-1], epilog=EPILOG)(command)
        return function

    return declare


def no_file(word: Path) -> str:
    """What to say about an argument that is neither a run nor a TOML file."""
    from igpo_cli.history import runs_in

    meant = errors.close(word.name, known := [folder.name for folder in runs_in(Path("runs"))])
    if word.name in known and str(word) == word.name:
        return f"the name of a run stands right behind the command. Put '{word}' there, or write {Path('runs') / word}"
    if word.exists():
        return f"'{word}' is neither a run nor a TOML file, whose name ends in .toml"
    hint = f" Did you mean '{meant}'?" if meant else " igpo runs list shows the runs." if known else ""
    return f"there is no file or run '{word}'; the name of a file must end in .toml.{hint}"


def own_parameters(function: Callable[..., None]) -> list[inspect.Parameter]:
    """All parameters but the first, whose type need not be imported."""
    space = getattr(function, "__globals__", {})
    _, *own = inspect.signature(function).parameters.values()
    return [
        each.replace(annotation=builtins.eval(each.annotation, space)) if isinstance(each.annotation, str) else each
        for each in own
    ]


def _sign(command: Any, function: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> None:
    update_wrapper(command, function)
    command.__signature__ = inspect.Signature([each.replace(kind=each.KEYWORD_ONLY) for each in parameters])
    command.__annotations__ = {each.name: each.annotation for each in parameters}


def common(preset: str | None) -> list[inspect.Parameter]:
    """What every such command has."""
    without = f"{preset}, where no file is given" if preset else ""
    return [
        _parameter(
            "config_file",
            Annotated[
                Path | None,
                typer.Argument(
                    metavar="FILE.toml", help="Values that go over the preset's.", autocompletion=run_names_and_files
                ),
            ],
        ),
        _parameter(
            "config_preset",
            Annotated[
                str | None,
                typer.Option(
                    "--preset",
                    metavar="NAME",
                    help=f"Start from a preset (igpo config presets). {_dim(without)}",
                    autocompletion=preset_names,
                ),
            ],
        ),
        _parameter(
            "config_plugins",
            Annotated[
                list[str],
                typer.Option(
                    "--plugin",
                    metavar="FILE.py",
                    help="Python file with plug-ins; may be repeated.",
                    show_default=False,
                ),
            ],
            default=[],
        ),
    ]


def _parameter(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


# The first reading ---------------------------------------------------------------------------------------------------


def canonical(word: str) -> str:
    """A flag as it is declared: --model.mask_id is --model.mask-id, and --sampler.name is --sampler."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    table, dot, key = name.rpartition(".")
    return (table if dot and key == "name" else table + dot + key.replace("_", "-")) + equals + value


@define
class Reading:
    """What the first reading of argv finds; values count only where they choose something."""

    file: Path | None = None
    preset: str | None = None
    flags: dict[str, Any] = field(factory=dict)
    """Dotted path -> text, or True where none followed."""
    own: dict[str, list[Any]] = field(factory=dict)
    """The same of the command's own flags, which may be repeated."""

    @classmethod
    def of(cls, words: Sequence[str], own: Sequence[inspect.Parameter]) -> Reading:
        """Read `words`; the flags of the command's `own` parameters are kept apart."""
        from igpo_cli.config import top_level

        found, rest = cls(), list(words)
        mine = {name: each.annotation for each in own for name in _names(each)} | {"--help": bool}
        switches = {option.name.replace("_", "-") for option in top_level().values() if option.type is bool}
        switches |= {name.removeprefix("--") for name, type_ in mine.items() if bool in (type_, *get_args(type_))}
        while rest and (word := rest.pop(0)) != "--":
            if not word.startswith("--"):
                if word.endswith(".toml") and found.file is None:
                    found.file = Path(word)
                continue
            name, equals, value = word.removeprefix("--").partition("=")
            follows = bool(rest) and not rest[0].startswith("--") and name.removeprefix("no-") not in switches
            if not equals and follows and not ("." in name and rest[0].endswith(".toml")):
                equals, value = "=", rest.pop(0)
            if name == "preset":
                found.preset = value
            elif name == "plugin":
                found.flags.setdefault("plugins", []).append(value)
            elif f"--{name}" in mine:
                found.own.setdefault(name, []).append(value if equals else True)
            else:
                table, dot, key = name.removeprefix("no-").rpartition(".")
                found.flags[table + dot + key.replace("-", "_")] = value if equals else True
        return found


@frozen
class Varied:
    """Several configurations that are made of one command line."""

    over: dict[str, tuple[Source, ...]]
    """By name: what goes over all other sources."""
    preset: str | None
    """What they start from."""
    under: tuple[Source, ...] = ()
    """What goes over the preset alone."""


def varied_by(
    reading: Reading, preset: str | None, vary: tuple[str, str] | Callable[[Reading], Varied] | None
) -> Varied:
    """What a command makes of its line; --PARAMETER A,B makes one configuration a plug-in, one after the other."""
    from igpo_cli.config import Source

    if callable(vary):
        return vary(reading)
    chosen = reading.preset or (None if reading.file else preset)
    if vary is None or vary[0] not in reading.own:
        return Varied({"": ()}, chosen)
    parameter, kind = vary
    given = reading.own[parameter][-1]
    names = [name.strip() for name in str(given).split(",")]
    if "" in names or given is True:
        raise errors.UsageError(f"--{parameter} takes the names of {kind}s with commas between them, such as A,B,C")
    return Varied({name: (Source(f"--{parameter}", {kind: {"name": name}}),) for name in names}, chosen)


def _names(parameter: inspect.Parameter) -> Iterator[str]:
    """The flags of a parameter that is declared as Typer wants it."""
    yield "--" + parameter.name.replace("_", "-")
    for info in getattr(parameter.annotation, "__metadata__", ()):
        declared = (getattr(info, "default", None), *(getattr(info, "param_decls", None) or ()))
        yield from (part for text in declared if isinstance(text, str) for part in text.split("/") if part[:1] == "-")


# The options ---------------------------------------------------------------------------------------------------------


@frozen
class Flag:
    """One value of the configuration as a Typer parameter."""

    path: str
    parameter: inspect.Parameter
    off: bool = False
    """True where the flag's presence means false."""

    def value(self, given: Any) -> Any:
        """What the flag says; text is read later, as the option's type."""
        return False if self.off else given


def narrowed(
    catalogue: Catalogue,
    reading: Reading,
    varied: Varied,
    tables: Sequence[str] | None,
    over: Sequence[Source] = (),
) -> list[Flag]:
    """The flags of all tables, for the plug-ins that the first reading found, or those of sources `over` it."""
    from igpo_cli.config import SHARED, Draft, flag, sources
    from igpo_cli.options import brief, choices, describe, metavar, options
    from igpo_cli.plugins import KINDS
    from igpo_cli.settings import Run

    flags: list[Flag] = []
    run = options(Run)

    def add(
        path: str,
        value: str,
        text: str,
        panel: str,
        hidden: bool,
        *,
        switch: bool = False,
        off: bool = False,
        offer: Offer | None = None,
    ) -> None:
        option = typer.Option(
            "--no-" + flag(path)[2:] if off else flag(path),
            metavar=value,
            help=text,
            rich_help_panel=_plain(panel),
            show_default=False,
            hidden=hidden,
            autocompletion=offer,
        )
        kind: Any = bool if switch else str
        name = f"flag_{len(flags)}"
        flags.append(Flag(path, _parameter(name, Annotated[kind | None, option]), off))

    suite = reading.own.get("suite", [None])[-1]
    found = sources(varied.preset, reading.file, reading.flags, suite if isinstance(suite, str) else None, varied.under)
    draft = Draft([*found, *over], catalogue)
    for path, table in draft.tables.items():
        scope, _, name = path.rpartition(".")
        unwanted = tables is not None and not {name, scope or name} & {*tables}
        hidden = unwanted or (bool(scope) and name in SHARED)
        panel = f"[{path}] {table.name or ''}".strip()
        if name in KINDS:
            about = describe(catalogue.load(name, table.name))[0] if table.name else ""
            text = " ".join(filter(None, (_plain(about), _dim(", ".join(catalogue.names(name))))))
            add(path, table.name or "NAME", text, panel, hidden, offer=plugin_names(catalogue, name))
        for key, option in table.options.items():
            if option.kind or (not path and key == "plugins"):
                continue
            _, value = table.cells.get(key, ("", option.default))
            at = path if path and key == "name" else f"{path}.{key}".strip(".")
            place = panel if path else "Run" if key in run else "IGPO"
            plain = option.type in (int, float, str, bool)
            says = ["required" if value is NOTHING else "", "" if plain else metavar(option.type), option.bounds]
            text = " ".join(filter(None, (_plain(option.help), _dim(", ".join(filter(None, says))))))
            if option.type is bool:
                add(at, "off", text, place, hidden or value is True, switch=True)
                add(at, "on", text, place, hidden or value is not True, switch=True, off=True)
            else:
                shown = metavar(option.type) if value is NOTHING else brief(value).replace("\n", "\\n")
                shown = shown if len(shown) <= 20 else shown[:19] + "…"
                add(at, shown, text, place, hidden, offer=among(partial(choices, option.type)))
    return flags


def _plain(text: str) -> str:
    """Text in which brackets are no markup."""
    return text.replace("[", "\\[")


def _dim(text: str) -> str:
    return f"[dim]{_plain(f'[{text}]')}[/dim]" if text else ""
