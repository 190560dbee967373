"""Every value of a run, and where it came from: defaults < preset < TOML file < flags.

A flag is its TOML path, so the four sources are nested tables that are laid over each other and then checked once, by
the attrs classes that the values are for. The result writes itself as the run.toml that gives the same run again.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias, get_origin

from attrs import define, evolve, field, frozen

from igpo_cli.errors import UsageError, close
from igpo_cli.options import Option, conform, from_text, options, show
from igpo_cli.plugins import KINDS, Catalogue, Kind, load_target
from igpo_cli.settings import Evaluation, FineTuning, LoRA, Prompt, Run

SECTIONS = ("prompt", "optimizer", "lora")
SHARED = (*KINDS, *SECTIONS)
"""Tables that may reappear under [sft] and [eval.NAME] and override the top-level one there."""
DEFAULT, FLAG = "default", "flag"
Options: TypeAlias = Mapping[str, Option]


def section(name: str) -> type[Any]:
    """The class behind a table that holds no plug-in; `eval` stands for every [eval.NAME]."""
    if name == "optimizer":
        return load_target("igpo_rl.trainer:Optimizer")
    return {"prompt": Prompt, "lora": LoRA, "sft": FineTuning, "eval": Evaluation}[name]


def algorithm() -> type[Any]:
    """IGPO, whose plug-ins are tables here and whose other options are top-level keys beside those of `Run`."""
    return load_target("igpo_rl.igpo:IGPO")


def top_level() -> Options:
    """The keys outside any table."""
    run = options(Run)
    return {**run, **{key: each for key, each in options(algorithm()).items() if key not in (*KINDS, *run)}}


# Sources -------------------------------------------------------------------------------------------------------------


@frozen
class Source:
    """Values as somebody wrote them."""

    origin: str
    values: Mapping[str, Any]

    @classmethod
    def file(cls, path: Path, origin: str | None = None) -> Source:
        """A TOML file."""
        try:
            return cls(origin or str(path), tomllib.loads(path.read_text(encoding="utf-8-sig")))
        except FileNotFoundError:
            raise UsageError(f"there is no file '{path}'") from None
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: not valid TOML: {error}") from error

    @classmethod
    def preset(cls, name: str) -> Source:
        """A preset that is shipped with igpo."""
        known = presets()
        if name not in known:
            meant = close(name, known)
            hint = f"Did you mean '{meant}'? " if meant else ""
            raise UsageError(f"no preset named '{name}'. {hint}There are: {', '.join(known)} (igpo config presets)")
        return cls.file(known[name], f"preset {name}")

    @classmethod
    def flags(cls, flags: Mapping[str, Any]) -> Source:
        """Values by dotted path; at the path of a table stands the name of its plug-in."""
        root: dict[str, Any] = {}
        for path in sorted(flags):  # "sampler" before "sampler.steps"
            *parents, leaf = path.split(".")
            node = root
            for part in parents:
                inner = node.get(part, {})
                node[part] = {"name": inner} if isinstance(inner, str) else inner
                node = node[part]
            node[leaf] = flags[path]
        return cls(FLAG, root)

    @classmethod
    def suite(cls, name: str) -> Source:
        """Evaluations and what they are made with: a suite that is shipped with igpo, or a TOML file."""
        known = shipped("suites")
        if not name.endswith(".toml") and name not in known:
            meant = close(name, known)
            hint = f"Did you mean '{meant}'? " if meant else ""
            raise UsageError(f"no suite named '{name}'. {hint}There are: {', '.join(known)}, or name a TOML file.")
        found = cls.file(Path(name)) if name.endswith(".toml") else cls.file(known[name], f"suite {name}")
        if not isinstance(found.values.get("eval"), Mapping):
            raise UsageError(f"{found.origin} has no table [eval.NAME], so it is no suite of evaluations.")
        return found


def presets() -> dict[str, Path]:
    """The shipped presets by name."""
    return shipped("presets")


def shipped(folder: str, kind: str = "toml") -> dict[str, Path]:
    """The files of a folder that comes with igpo, by name."""
    return {file.stem: file for file in sorted(Path(str(resources.files("igpo_cli") / folder)).glob(f"*.{kind}"))}


def layers(preset: str) -> list[Source]:
    """A preset, and before it the one that it says it goes over."""
    source = Source.preset(preset)
    values = dict(source.values)
    below = values.pop("preset", None)
    return [*([] if below is None else layers(below)), Source(source.origin, values)]


def sources(
    preset: str | None,
    file: Path | None,
    flags: Mapping[str, Any],
    suite: str | None = None,
    under: Sequence[Source] = (),
) -> list[Source]:
    """Lowest first: preset, file, suite, flags. A file may name its preset: `preset = "tiny"`; the flag --preset goes over it.

    The evaluations of a suite stand in the place of those of file and preset. What goes `under` file and flags, but over
    the preset, comes from the command itself.
    """
    found = [Source.flags(flags)]
    if file is not None:
        document = Source.file(file)
        values = dict(document.values)
        named = values.pop("preset", None)
        if not isinstance(named, str | None):
            raise _refuse("", "preset", document.origin, f"preset = {show(named)} must be text")
        preset = preset or named
        found.insert(0, Source(document.origin, values))
    found = [*([] if preset is None else layers(preset)), *under, *found]
    if suite is not None:
        below = [
            evolve(each, values={key: value for key, value in each.values.items() if key != "eval"}) for each in found
        ]
        found = [*below[:-1], Source.suite(suite), found[-1]]
    return found


# Laying them over each other -----------------------------------------------------------------------------------------


@frozen
class Layer:
    """What one source says of one table."""

    rank: int
    """A higher source is laid over a lower one."""
    origin: str
    values: Mapping[str, Any]
    inherited: bool = False
    """True for what the top-level table says to the one that overrides it."""


@define
class Table:
    """One table after all sources; its values are not checked yet."""

    path: str
    name: str | None
    """The chosen plug-in as it was written; None where the table holds no plug-in, or none was chosen."""
    named_by: str
    options: Options
    cells: dict[str, tuple[str, Any]] = field(factory=dict)
    """Key -> origin and value. Where the option is a plug-in, the value is a Table or a list of them."""


@define
class Draft:
    """All tables of a run by their path, "" for the top level: enough for --help, which shows what may still change."""

    sources: list[Source]
    catalogue: Catalogue
    notes: list[str] = field(factory=list)
    tables: dict[str, Table] = field(factory=dict)
    scopes: list[str] = field(factory=list)
    """"sft" and every "eval.NAME"."""

    def __attrs_post_init__(self) -> None:
        files = [file for source in self.sources for file in _texts(source, "plugins")]
        for file in files:
            self.catalogue.add_file(file)
        self.tables[""] = self._lay("", self._within("", (*SHARED, "sft", "eval")), known=top_level())
        if files:
            self.tables[""].cells["plugins"] = (self.tables[""].cells["plugins"][0], list(dict.fromkeys(files)))
        self.scopes = ["sft", *(f"eval.{name}" for name in self._evals())]
        for scope in ("", *self.scopes):
            if scope:
                known = options(section(scope.partition(".")[0]))
                self.tables[scope] = self._lay(scope, self._within(scope, SHARED), known=known)
            for name in SHARED:
                path, own = _join(scope, name), self._within(_join(scope, name))
                if own or not scope:
                    layers = [*self._within(name, inherited=True), *own] if scope else own
                    known = options(section(name)) if name not in KINDS else {}
                    self.tables[path] = self._lay(path, layers, KINDS.get(name), known)

    def _evals(self) -> Iterable[str]:
        """The names of all [eval.NAME]. A flag may make a new one, but not by a slip of the pen."""
        names: dict[str, None] = {}
        for layer in self._within("eval"):
            for name in layer.values:
                if "." in name:
                    raise UsageError(f'{layer.origin}: [eval."{name}"] has a dot in its name. Leave it out.')
                if layer.origin == FLAG and name not in names and (meant := close(name, names)):
                    raise UsageError(f"no evaluation named '{name}'. Did you mean --eval.{meant}?")
                names[name] = None
        return names

    def _within(self, path: str, drop: Iterable[str] = (), *, inherited: bool = False) -> list[Layer]:
        """What each source says of a table; a mere text is the name of a plug-in."""
        found = []
        for rank, source in enumerate(self.sources):
            node: Any = source.values
            for part in path.split(".") if path else ():
                node = _named(node.get(part, {}))
                if node is True and source.origin == FLAG and path.rpartition(".")[2] in KINDS:
                    raise UsageError(f"{flag(path)} needs the name of a plug-in behind it")
                if not isinstance(node, Mapping):
                    raise UsageError(f"{source.origin}: '{path}' must be a table, [{path}], and not {show(node)}")
            if node := {key: value for key, value in node.items() if key not in drop}:
                found.append(Layer(rank, source.origin, node, inherited))
        return found

    def _lay(self, path: str, layers: Sequence[Layer], kind: Kind | None = None, known: Options | None = None) -> Table:
        """A table of a kind, or one with `known` options. Who changes the name drops what was not meant for the new one."""
        table, rank, meant_for = Table(path, kind.default if kind else None, DEFAULT, known or {}), -1, []
        for layer in layers if kind else ():
            if "name" in layer.values:
                table.name, table.named_by, rank = layer.values["name"], layer.origin, layer.rank
                if not isinstance(table.name, str):
                    raise _refuse(path, "name", layer.origin, f"name = {show(table.name)} must be text")
            meant_for.append(table.name)
        if kind and table.name is not None:
            table.options = options(self.catalogue.load(kind.name, table.name))
            if "name" in table.options:
                raise UsageError(f"{kind.name} '{table.name}' has an option 'name', by which {kind.name}s are chosen")
        stacks: dict[str, list[tuple[Layer, Any]]] = {}
        dropped: dict[str, list[str]] = {}
        for number, layer in enumerate(layers):
            for key, value in layer.values.items():
                if kind and key == "name":
                    continue
                if key in table.options and not (kind and self._foreign(kind, meant_for[number], table, key)):
                    stacks.setdefault(key, []).append((layer, value))
                elif layer.rank < rank and not layer.inherited:
                    dropped.setdefault(layer.origin, []).append(key)
                elif not layer.inherited:
                    raise self._unknown(table, key, layer.origin, value, kind)
        for origin, keys in dropped.items():
            whose = "the flags" if origin == FLAG else origin
            self.notes.append(f"[{path}] {', '.join(keys)} of {whose} dropped: not meant for '{table.name}'")
        for key, stack in stacks.items():
            table.cells[key] = stack[-1][0].origin, self._value(_join(path, key), table.options[key], stack)
        return table

    def _foreign(self, kind: Kind, meant_for: str | None, table: Table, key: str) -> bool:
        """Whether a key that was set for one plug-in says something else to another: `path` does, `steps` does not."""
        if meant_for in (None, table.name):
            return False
        try:
            before = options(self.catalogue.load(kind.name, str(meant_for))).get(key)
        except UsageError:  # it does not load, and is no longer wanted
            return False
        now = table.options[key]
        return before is not None and (before.type != now.type or now.required)

    def _value(self, path: str, option: Option, stack: list[tuple[Layer, Any]]) -> Any:
        """The highest value; tables of plug-ins are laid over each other in turn."""
        layer, value = stack[-1]
        if not option.kind:
            return from_text(value, option.type) if layer.origin == FLAG and isinstance(value, str) else value
        many = get_origin(option.type) is tuple
        parts = [[(layer, part)] for part in value] if many and isinstance(value, list) else [stack]
        if (many and not isinstance(value, list)) or not all(isinstance(each[-1][1], str | Mapping) for each in parts):
            table, _, key = path.rpartition(".")
            wanted = f"must be {'a list of tables' if many else 'a table'} with the name of a {option.kind}"
            raise _refuse(table, key, layer.origin, f"{key} = {show(value)} {wanted}")
        inner = [[evolve(layer, values=_named(part)) for layer, part in each] for each in parts]
        tables = [self._lay(path, layers, KINDS[option.kind]) for layers in inner]
        return tables if many else tables[0]

    def _holding(self, key: str) -> list[str]:
        """Paths of the tables of this run that have an option of that very name."""
        found = []
        for name in SHARED:
            chosen = next(
                (str(layer.values["name"]) for layer in reversed(self._within(name)) if "name" in layer.values),
                KINDS[name].default if name in KINDS else None,
            )
            known = options(section(name)) if name not in KINDS else {}
            with suppress(UsageError):
                known = options(self.catalogue.load(name, str(chosen))) if name in KINDS and chosen else known
            found += [f"{name}.{key}"] if key in known else []
        return found

    def _unknown(self, table: Table, key: str, origin: str, value: object, kind: Kind | None) -> UsageError:
        tables = ({"": ("sft", "eval", *SHARED)} | dict.fromkeys(self.scopes, SHARED)).get(table.path, ())
        choices = tables if isinstance(value, Mapping) else [*table.options, *tables]
        meant = close(key, choices)
        if kind and table.name is None:
            return _refuse(
                table.path, key, origin, f"{key} is set, but no {kind.name} is chosen. {_choose(kind, table.path)}"
            )
        where = f"igpo plugins show {kind.name} {table.name}" if kind else "igpo config show"
        if origin == FLAG:
            inner = [] if table.path else self._holding(key)
            paths = inner or [_join(table.path, meant)] * bool(meant)
            hint = f"; did you mean {' or '.join(map(flag, paths))}?" if paths else ""
            return UsageError(f"no option {flag(_join(table.path, key))}{hint} ({where})")
        if isinstance(value, Mapping):
            hint = f"; did you mean [{_join(table.path, meant)}]?" if meant else ""
            return UsageError(f"{origin}: unknown table [{_join(table.path, key)}]{hint} ({where})")
        inside = f" in [{table.path}]" if table.path else ""
        hint = f"; did you mean '{meant}'?" if meant else ""
        return UsageError(f"{origin}: unknown key '{key}'{inside}{hint} ({where})")


def flag(path: str) -> str:
    """The flag of a dotted path."""
    table, dot, key = path.rpartition(".")
    return f"--{table}{dot}{key.replace('_', '-')}"


def _join(*parts: str | None) -> str:
    return ".".join(part for part in parts if part)


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _texts(source: Source, key: str) -> tuple[str, ...]:
    value = source.values.get(key, ())
    try:
        found: tuple[str, ...] = conform(value, tuple[str, ...])
    except ValueError as error:
        raise _refuse("", key, source.origin, f"{key} = {show(value)} {error}") from None
    return found


def _choose(kind: Kind, path: str = "") -> str:
    where = path or kind.name
    return f"Choose one with {flag(where)} NAME or [{where}] name, or start from a preset (igpo plugins {kind.name})."


def _refuse(path: str, key: str, origin: str, problem: str) -> UsageError:
    """`problem` begins with `key = value` as a rule; a flag says that as one types it."""
    if origin == FLAG:
        head, begin = flag(_join(path, key)), f"{key} = "
        return UsageError(
            f"{head} {problem.removeprefix(begin)}" if problem.startswith(begin) else f"{head}: {problem}"
        )
    source = "" if origin == DEFAULT else f"{origin}: "
    return UsageError(f"{source}[{path}] {problem}" if path else f"{source}{problem}")


# The result ----------------------------------------------------------------------------------------------------------


@frozen
class Config:
    """All that a run was told: plug-ins and settings as objects, and their values with origins."""

    values: dict[str, Any]
    """Complete, nested as in TOML. A table under [sft] or [eval.NAME] stands there, complete, if something overrides it."""
    origins: dict[str, str] = field(eq=False)
    """Dotted path -> "default", "preset NAME", the file's name or "flag"."""
    notes: tuple[str, ...] = field(eq=False)
    """What a higher source silently made void."""
    _objects: dict[str, Any] = field(eq=False, repr=False)
    file: Path | None = field(default=None, eq=False)
    """The TOML file among the sources."""

    def replacing(self, **run: Any) -> Config:
        """The same with other top-level settings of `Run`."""
        return evolve(self, values=self.values | run, objects={**self._objects, "": evolve(self.run, **run)})

    @property
    def run(self) -> Run:
        """The top-level settings that are not IGPO's."""
        run: Run = self._objects[""]
        return run

    @property
    def igpo(self) -> dict[str, Any]:
        """The options of IGPO that are no plug-ins, for its constructor."""
        return dict(self._objects["igpo"])

    def plugin(self, kind: str, within: str | None = None) -> Any:
        """The plug-in object of a kind; within "sft" or "eval.NAME" the one that its tables say."""
        found = self._objects.get(_join(within, kind), self._objects.get(kind))
        if found is None:
            raise UsageError(f"no {kind} is chosen. {_choose(KINDS[kind])}")
        return found

    def section(self, name: str, within: str | None = None) -> Any:
        """The settings of [prompt], [optimizer], [lora] or [sft]."""
        return self._objects.get(_join(within, name), self._objects.get(name))

    def evals(self) -> tuple[str, ...]:
        """The names of all [eval.NAME]."""
        return tuple(self.values.get("eval", {}))

    def evaluation(self, name: str) -> Evaluation:
        """The settings of [eval.NAME]."""
        if name not in self.evals():
            meant = close(name, self.evals())
            hint = f"Did you mean '{meant}'? " if meant else ""
            raise UsageError(f"no evaluation named '{name}'. {hint}There are: {', '.join(self.evals()) or 'none'}.")
        found: Evaluation = self._objects[f"eval.{name}"]
        return found

    def refuse(self, path: str, error: Exception) -> UsageError:
        """The message of an object that found its values unfit at work, with the file and table to mend.

        `path` is the table's, such as "sampler" or "eval.heldout.sampler"; [sampler] is meant where the latter has none.
        """
        while path and not any(known.startswith(f"{path}.") for known in self.origins):
            path = path.partition(".")[2]
        return _refusal(path, error, self.origins)

    def to_toml(self) -> str:
        """The run.toml that resolves to an equal Config."""
        import tomli_w

        return tomli_w.dumps(self.values)


def resolve(
    preset: str | None,
    file: Path | None,
    flags: Mapping[str, Any],
    catalogue: Catalogue,
    over: Sequence[Source] = (),
    suite: str | None = None,
    under: Sequence[Source] = (),
) -> Config:
    """Everything that a run was told, checked. `flags`: dotted path -> value, or its text as it was typed.

    What is `over` the flags, or `under` file and flags, comes from the command itself.
    """
    draft = Draft([*sources(preset, file, flags, suite, under), *over], catalogue)
    build = Builder(catalogue)
    top = draft.tables.pop("")
    for path, table in draft.tables.items():
        scope, _, name = path.rpartition(".")
        if name not in KINDS:
            build.objects[path] = build.make(table, section("eval" if scope == "eval" else name))
            build.write(path, build.objects[path], table)
        elif table.name is not None:
            build.objects[path] = build.plugin(table, KINDS[name])
            build.write(path, build.objects[path], table, KINDS[name])
    run = build.objects[""] = build.make(top, Run)
    parts = {key: build.objects[key] for key in options(algorithm()) if key in KINDS}
    igpo = build.make(top, algorithm(), parts)
    build.objects["igpo"] = {key: getattr(igpo, key) for key in options(algorithm()) if key not in parts}
    for made in (run, igpo):
        build.write("", made, top)
    values = dict(sorted(build.values.items(), key=lambda item: isinstance(item[1], dict)))
    config = Config(values, build.origins, tuple(draft.notes), build.objects, file)
    for within in (None, *draft.scopes):
        block = getattr(config.plugin("sampler", within), "block", None) or 0
        if block > (width := run.width):
            wide = ValueError(f"block = {block} is wider than the completion, width = {width}. Use at most {width}.")
            raise config.refuse(_join(within, "sampler"), wide)
    return config


@define
class Builder:
    """Makes objects of tables, and writes their complete values down."""

    catalogue: Catalogue
    objects: dict[str, Any] = field(factory=dict)
    values: dict[str, Any] = field(factory=dict)
    origins: dict[str, str] = field(factory=dict)

    def plugin(self, table: Table, kind: Kind) -> Any:
        """The plug-in of a table."""
        if table.name is None:
            raise UsageError(f"[{table.path}] names no {kind.name}. {_choose(kind, table.path)}")
        return self.make(table, self.catalogue.load(kind.name, table.name))

    def make(self, table: Table, cls: type[Any], given: Mapping[str, Any] | None = None) -> Any:
        """The object of a table's values, beside those that are `given`."""
        values = dict(given or {})
        for key, option in options(cls).items():
            if key in table.cells:
                values[key] = self._checked(table, key, option)
            elif option.required and key not in values:
                raise UsageError(
                    f"[{table.path}] needs a value for '{key}': set it there, or with {flag(_join(table.path, key))}"
                )
        try:
            return cls(**values)
        except (ValueError, TypeError) as error:
            origins = {_join(table.path, key): origin for key, (origin, _) in table.cells.items()}
            raise _refusal(table.path, error, origins) from error

    def _checked(self, table: Table, key: str, option: Option) -> Any:
        origin, value = table.cells[key]
        if isinstance(value, Table):
            return self.plugin(value, KINDS[str(option.kind)])
        if option.kind:
            return tuple(self.plugin(part, KINDS[option.kind]) for part in value)
        try:
            return conform(value, option.type)
        except ValueError as error:
            raise _refuse(table.path, key, origin, f"{key} = {show(value)} {error}") from None

    def write(self, path: str, made: Any, table: Table, kind: Kind | None = None) -> None:
        """Write an object's values at its path."""
        node = self.values
        for part in path.split(".") if path else ():
            node = node.setdefault(part, {})
        node.update(self._plain(path, made, table, kind))

    def _plain(self, path: str, made: Any, table: Table | None, kind: Kind | None) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        if kind:
            plain |= {"name": table.name if table else self.catalogue.name_of(kind.name, type(made))}
            self.origins[_join(path, "name")] = table.named_by if table else DEFAULT
        for key, option in options(type(made)).items():
            if not path and key in KINDS:
                continue  # IGPO's plug-ins are tables of their own
            origin, cell = table.cells.get(key, (DEFAULT, None)) if table else (DEFAULT, None)
            value, inner = getattr(made, key), KINDS[option.kind] if option.kind else None
            if inner and isinstance(value, tuple):
                cells = cell or [None] * len(value)
                plain[key] = [
                    self._plain(f"{_join(path, key)}.{number}", part, part_table, inner)
                    for number, (part, part_table) in enumerate(zip(value, cells, strict=True))
                ]
            elif inner:
                plain[key] = self._plain(_join(path, key), value, cell, inner)
            else:
                try:
                    plain[key] = _writable(value)
                except TypeError as error:
                    raise _refuse(path, key, origin, f"{key} {error}") from error
                self.origins[_join(path, key)] = origin
        return plain


def _writable(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_writable(part) for part in value]
    if isinstance(value, Mapping):
        return {key: _writable(part) for key, part in value.items()}
    if not isinstance(value, str | int | float | None):
        kind = type(value).__name__
        raise TypeError(f"holds a {kind}, but options are text, numbers, true or false, and lists and tables of them")
    return "none" if value is None else value


def _refusal(path: str, error: Exception, origins: Mapping[str, str]) -> UsageError:
    """The message of a class that refused its values, located at the key with which it begins."""
    problem = str(error.args[0]) if error.args else str(error)
    if found := re.fullmatch(r"'(\w+)' must be (.+): (.+)", problem, re.DOTALL):  # attrs' own validators
        problem = f"{found[1]} = {found[3]} must be {found[2]}"
    begin = re.match(r"'?(\w+)'? (=|must)", problem)
    key = begin[1] if begin else ""
    return _refuse(path, key, origins.get(_join(path, key), DEFAULT), problem)
