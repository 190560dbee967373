"""The catalogue: which plug-ins there are, who provides them, and whether they load.

Built-ins and third parties come through the same door, the entry-point group "igpo"; a single file may be added for
trying an idea. A row's class is imported when it is used, not before.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections import Counter
from collections.abc import Mapping
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import pluggy
from attrs import evolve, frozen, has

from igpo_cli.errors import UsageError, close, warn

if TYPE_CHECKING:
    import typer

GROUP = "igpo"
HOOKSPECS = ("igpo_sampling.hookspecs", "igpo_rl.hookspecs", "igpo_data.hookspecs", "igpo_cli.hookspecs")


@frozen
class Kind:
    """One of the nine kinds of plug-in: a flag, a TOML table and a hook."""

    name: str
    hook: str
    protocol: str
    """Name of the protocol that its classes follow: a field of this type holds a plug-in."""
    default: str | None
    """What is taken where nothing is chosen; None: must be chosen."""


KINDS = {
    kind.name: kind
    for kind in (
        Kind("model", "igpo_models", "Model", None),
        Kind("sampler", "igpo_samplers", "Sampler", "llada"),
        Kind("chunker", "igpo_chunkers", "Chunker", "random-length"),
        Kind("injection", "igpo_injections", "Injection", "uniform-chunks"),
        Kind("filter", "igpo_filters", "EntropyFilter", "top-entropy"),
        Kind("estimator", "igpo_estimators", "LikelihoodEstimator", "mean-field"),
        Kind("loss", "igpo_losses", "PolicyLoss", "grpo"),
        Kind("task", "igpo_tasks", "TaskSource", None),
        Kind("verifier", "igpo_verifiers", "Verifier", "math"),
    )
}


@frozen(kw_only=True)
class Row:
    """One line of `igpo plugins`: a plug-in, or (without kind and name) a distribution whose plug-ins did not load."""

    kind: str = ""
    name: str = ""
    distribution: str
    version: str
    target: str
    """module:Class"""
    status: str = "ok"

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".rstrip()


class Catalogue:
    """Everything that is installed, and the single files that were added."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._rows: list[Row] = []
        self._files: set[Path] = set()
        self._manager = pluggy.PluginManager(GROUP)
        for module in HOOKSPECS:
            self._manager.add_hookspecs(importlib.import_module(module))

    @classmethod
    def installed(cls) -> Catalogue:
        """The plug-ins of every installed distribution. One that fails becomes a warning and a row, never an error."""
        catalogue = cls()
        for point in importlib.metadata.entry_points(group=GROUP):
            distribution = point.dist
            source = Row(
                distribution=distribution.name if distribution else point.name,
                version=distribution.version if distribution else "",
                target=point.value,
            )
            try:
                catalogue.add(point.load(), source)
            except Exception as error:  # noqa: BLE001 somebody else's code, which may fail in any way
                status = f"{type(error).__name__}: {error}"
                catalogue._rows.append(evolve(source, status=status))
                catalogue.warnings.append(
                    f"plug-in '{source.distribution}' did not load ({status}) and is skipped. igpo doctor"
                )
        return catalogue

    def add(self, plugin: ModuleType, source: Row) -> None:
        """Register a module with hooks; its rows carry the source's distribution and version."""
        kinds = {kind.hook: kind.name for kind in KINDS.values()}
        rows: list[Row] = []
        self._manager.register(plugin, f"{source.distribution} {source.target}")
        try:
            for caller in self._manager.get_hookcallers(plugin) or ():
                if not caller.has_spec():
                    meant = close(caller.name, [*kinds, "igpo_commands"])
                    hint = f"; did you mean '{meant}'?" if meant else ""
                    self.warnings.append(f"plug-in '{source.distribution}' has an unknown hook '{caller.name}'{hint}")
                elif caller.name in kinds:
                    hook = next(hook for hook in caller.get_hookimpls() if hook.plugin is plugin)
                    targets = named_targets(caller.name, hook.function())
                    rows += [evolve(source, kind=kinds[caller.name], name=n, target=at) for n, at in targets.items()]
        except Exception:
            self._manager.unregister(plugin)
            raise
        self._rows += rows

    def add_file(self, file: str) -> None:
        """Register a single Python file. It was asked for by name, so here a failure is an error."""
        path = Path(file).resolve()
        if path in self._files:
            return
        if not path.is_file():
            raise UsageError(f"there is no plug-in file '{file}' (seen from {Path.cwd()})")
        if path.suffix != ".py" or not path.stem.isidentifier():
            raise UsageError(f"plug-in file '{file}' must have the name of a Python module, such as mine.py")
        known = importlib.util.find_spec(path.stem)
        if known is not None and known.origin != str(path):
            raise UsageError(f"plug-in file '{file}' has the name of the module '{path.stem}'. Rename it.")
        spec = cast(ModuleSpec, importlib.util.spec_from_file_location(path.stem, path))
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        try:
            cast(Loader, spec.loader).exec_module(module)
            self.add(module, Row(distribution=path.stem, version="", target=file))
            if not self._manager.get_hookcallers(module):
                raise LookupError("it has no hooks: decorate one, such as igpo_samplers(), with @hookimpl")
        except Exception as error:
            del sys.modules[path.stem]
            raise UsageError(f"plug-in file '{file}' did not load ({type(error).__name__}: {error})") from error
        self._files.add(path)

    @property
    def rows(self) -> list[Row]:
        """All plug-ins, by kind and name; a name that is claimed twice says so."""
        claims = Counter((row.kind, row.name) for row in self._rows if row.kind)
        order = [*KINDS, ""]
        return [
            evolve(row, status="claimed twice") if claims[row.kind, row.name] > 1 else row
            for row in sorted(self._rows, key=lambda row: (order.index(row.kind), row.name, row.distribution))
        ]

    def names(self, kind: str) -> list[str]:
        """The names of a kind, sorted."""
        return sorted({row.name for row in self._rows if row.kind == kind})

    def find(self, kind: str, name: str) -> Row:
        """The row of a plug-in by its name, or by `distribution:name` where two provide it."""
        distribution, _, plain = name.rpartition(":")
        found = [
            row
            for row in self._rows
            if row.kind == kind and row.name == plain and distribution in ("", row.distribution)
        ]
        if not found:
            meant = close(plain, self.names(kind))
            raise UsageError(
                f"no {kind} named '{name}'. "
                + (f"Did you mean '{meant}'? " if meant else "")
                + f"Installed: {', '.join(self.names(kind)) or 'none'} (igpo plugins {kind})"
            )
        if len(found) > 1:
            found.sort(key=lambda row: (not row.distribution.startswith("igpo-"), row.distribution))
            raise UsageError(
                f"two plug-ins provide {kind} '{name}': {' and '.join(map(str, found))}. "
                f"Choose with --{kind} {found[-1].distribution}:{name}."
            )
        return found[0]

    def load(self, kind: str, name: str) -> type[Any]:
        """The class of a plug-in."""
        row = self.find(kind, name)
        try:
            cls = load_target(row.target)
            if not has(cls):
                raise TypeError(f"{row.target} is no attrs class, whose fields are options: put @attrs.frozen above it")
            return cls
        except Exception as error:
            raise UsageError(
                f"{kind} '{name}' of {row} did not load ({type(error).__name__}: {error}). igpo doctor"
            ) from error

    def name_of(self, kind: str, cls: type[Any]) -> str:
        """The name under which a class is found: the inverse of `load`."""
        target = f"{cls.__module__}:{cls.__qualname__}"
        for row in self._rows:
            if row.kind == kind and row.target == target:
                return row.name
        raise UsageError(f"{cls.__qualname__} is no {kind} of the catalogue (igpo plugins {kind})")

    def commands(self, app: typer.Typer) -> None:
        """Let third parties add their commands."""
        for hook in self._manager.hook.igpo_commands.get_hookimpls():
            try:
                hook.function(app)
            except Exception as error:  # noqa: BLE001 somebody else's code, which may fail in any way
                warn(f"the commands of plug-in '{hook.plugin_name}' are skipped ({type(error).__name__}: {error})")


def named_targets(hook: str, returned: Any) -> Mapping[str, str]:
    """What a hook returned, if it is names and targets; else TypeError."""
    if not isinstance(returned, Mapping):
        raise TypeError(f"{hook}() returned a {type(returned).__name__}; it must be {{name: 'module:Class'}}")
    for name, target in returned.items():
        if not (isinstance(name, str) and isinstance(target, str) and all(target.partition(":"))):
            raise TypeError(f"{hook}() says {name!r}: {target!r}; it must be a name and the text 'module:Class'")
    return returned


def load_target(target: str) -> type[Any]:
    """The class that a target `module:Class` names."""
    module, _, name = target.partition(":")
    value = getattr(importlib.import_module(module), name)
    if not isinstance(value, type):
        raise TypeError(f"{target} is not a class")
    return value
