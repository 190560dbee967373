"""What `igpo ablate` compares: the arms of a study, from --vary on the command line or from a study that is shipped.

A shipped study is a TOML file: a question, arms that are tables of options, and for each scale a table of options that
the user's go over; in it `each` goes over those for every arm, `start` for the run whose model all arms start from.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from attrs import evolve, frozen

from igpo_cli import config
from igpo_cli.config import Source
from igpo_cli.errors import UsageError, close

Scale = Literal["small", "paper"]
PRESETS = {"small": "tiny", "paper": "paper-llada"}
"""What a scale starts from."""


@frozen(kw_only=True)
class Arm:
    """One way to train."""

    label: str
    about: str = ""
    sources: tuple[Source, ...] = ()
    """What goes over everything that the arms have in common."""
    at: float | None = None
    """Where it stands on the study's axis."""
    line: str = ""
    """Arms of the same line differ only in where they stand on the axis."""


@frozen(kw_only=True)
class Study:
    """A question and the arms that answer it."""

    name: str
    question: str = ""
    arms: tuple[Arm, ...] = (Arm(label=""),)
    against: str | None = None
    """The arm whose result with the same seed is subtracted from the others'."""
    metrics: tuple[str, ...] = ()
    """Columns of the table behind the evaluations."""
    plot: str | None = None
    """The metric that is drawn; None: of the first evaluation."""
    axis: str | None = None
    """Along which option arms are drawn; None: along the steps."""
    preset: str | None = None
    under: tuple[Source, ...] = ()
    """What goes over the preset for all arms."""
    start: Source | None = None
    """How a run differs whose model all arms of its seed start from; None: no such run."""

    def varying(self, texts: Sequence[str]) -> Study:
        """The product of its arms with those of a grid, each text being `OPTION[,OPTION]=VALUE,VALUE`."""
        if not texts:
            return self
        options = [Varied.parse(text) for text in texts]
        labels = [option.short for option in options]
        labels = [
            label if labels.count(label) == 1 else option.key for label, option in zip(labels, options, strict=True)
        ]
        axis = next((number for number, option in enumerate(options) if option.numbers), None)
        arms = []
        for arm in self.arms:
            for values in itertools.product(*(option.values for option in options)):
                parts = [f"{label}={value}" for label, value in zip(labels, values, strict=True)]
                flags = {path: value for option, value in zip(options, values, strict=True) for path in option.paths}
                rest = [part for number, part in enumerate(parts) if number != axis]
                arms.append(
                    evolve(
                        arm,
                        label=" ".join(filter(None, (arm.label, *parts))),
                        sources=(*arm.sources, Source.flags(flags)),
                        at=arm.at if axis is None else float(values[axis]),
                        line=" ".join(filter(None, (arm.label, *rest))),
                    )
                )
        return evolve(self, arms=tuple(arms), axis=self.axis if axis is None else labels[axis], against=None)


@frozen
class Varied:
    """Options that take the same values together."""

    paths: tuple[str, ...]
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Varied:
        """`injection.high=0.2,0.4`; a list among the values is written as in TOML, `optimizer.betas=[0.9,0.99],[0.9,0.95]`."""
        left, equals, right = text.partition("=")
        paths = [path.strip().removeprefix("--").replace("-", "_") for path in left.split(",")]
        values = [value.strip() for value in re.findall(r"(?:\[[^\]]*\]|\"[^\"]*\"|[^,])+", right)]
        if not equals or not all(paths) or not values:
            raise UsageError(
                f"--vary '{text}' is not OPTION=VALUE,VALUE,..., such as --vary injection.high=0.2,0.4,0.6"
            )
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise UsageError(f"--vary {text}: the value {twice} stands there twice")
        return cls(tuple(paths), tuple(values))

    @property
    def key(self) -> str:
        return "+".join(self.paths)

    @property
    def short(self) -> str:
        """The last words of the options."""
        return "+".join(path.rpartition(".")[2] for path in self.paths)

    @property
    def numbers(self) -> bool:
        """Whether the values lie on an axis."""
        return len(self.values) > 1 and all(re.fullmatch(r"-?\d*\.?\d+(e-?\d+)?", value) for value in self.values)


def shipped() -> dict[str, Path]:
    """The files of the shipped studies by name."""
    return config.shipped("experiments")


def read(name: str, scale: Scale) -> Study:
    """A shipped study at a scale."""
    document = tomllib.loads(shipped()[name].read_text(encoding="utf-8"))
    base = dict(document[scale])
    start, each, more = base.pop("start", None), base.pop("each", {}), base.pop("arms", {})
    origin = f"study {name}"
    arms = [
        Arm(
            label=label,
            about=table.pop("about"),
            at=table.pop("at", None),
            line=table.pop("line", ""),
            sources=(Source(origin, each), Source(origin, table)),
        )
        for label, table in {**document["arms"], **more}.items()
    ]
    return Study(
        name=name,
        question=document["question"],
        arms=tuple(arms),
        against=document["against"],
        metrics=tuple(document.get("metrics", ())),
        plot=document.get("plot"),
        axis=document.get("axis"),
        preset=PRESETS[scale],
        under=(Source(origin, base),),
        start=None if start is None else Source(origin, start),
    )


def find(word: str | None, scale: Scale, *, file: bool) -> Study:
    """The study of --preset: a shipped one, or none where that is a preset of the configuration. A file is its own base."""
    if word in shipped():
        study = read(str(word), scale)
        return evolve(study, preset=None, under=(), start=None) if file else study
    if word is not None and word not in (known := config.presets()):
        meant = close(word, [*shipped(), *known])
        hint = f"Did you mean '{meant}'? " if meant else ""
        raise UsageError(
            f"no study or preset named '{word}'. {hint}Studies: {', '.join(shipped())}. Presets: {', '.join(known)}."
        )
    return Study(name="ablation", preset=word or (None if file else "tiny"))


def seeds_of(text: str) -> tuple[int, ...]:
    """`3` -> 1, 2, 3; `1,2,5` -> these."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if (
        not parts
        or not all(part.isdecimal() for part in parts)
        or (len(parts) == 1 and "," not in text and int(text) < 1)
    ):
        raise UsageError(f"--seeds {text} is neither a number of seeds, such as 3, nor a list of them, such as 1,2,5")
    return tuple(range(1, int(text) + 1)) if "," not in text else tuple(dict.fromkeys(map(int, parts)))
