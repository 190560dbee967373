"""An evaluation on disk: NAME.jsonl, a line a sample, and NAME.json, the settings that they were drawn with and the result.

Samples are appended as they come, so an evaluation that was cut off goes on where it was; with other settings it does not,
because a mixture of both would be no result.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from igpo_cli.assemble import device_of
from igpo_cli.config import SHARED
from igpo_cli.errors import UsageError
from igpo_cli.tracking import read_lines
from igpo_rl import later

if TYPE_CHECKING:
    import torch

    from igpo_cli.config import Config
    from igpo_cli.problems import ProblemSet
else:
    torch = later.load("torch")


@frozen(kw_only=True)
class Ledger:
    """The files of one evaluation of one model."""

    folder: Path
    name: str
    settings: Mapping[str, Any]
    """Plain values, nested: all that the samples depend on."""
    about: Mapping[str, Any]
    """What else is worth knowing; it may differ between two sittings."""

    @property
    def rows_file(self) -> Path:
        return self.folder / f"{self.name}.jsonl"

    @property
    def head_file(self) -> Path:
        return self.folder / f"{self.name}.json"

    def open(self, batch: int) -> list[dict[str, Any]]:
        """The samples that are there already, in whole batches; UsageError where they were drawn with other settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.rows_file.exists():
            self._head(None)
            return []
        if not self.head_file.exists():
            raise UsageError(
                f"{self.rows_file} holds samples, but there is no {self.head_file.name} that says how they were drawn. "
                "Choose another --out."
            )
        head = json.loads(self.head_file.read_text(encoding="utf-8"))
        if changed := next(differing(head["settings"], json.loads(json.dumps(self.settings))), None):
            name, old, new = changed
            raise UsageError(
                f"{self.rows_file} was made with {name} = {brief(old)}, and now it is {brief(new)}; the two cannot be mixed. "
                "Choose another --out, or delete that file to begin anew."
            )
        rows = read_lines(self.rows_file)
        if head["metrics"] is None:  # it was cut off, perhaps within a batch, which will be drawn again as it was
            rows = rows[: len(rows) - len(rows) % batch]
            self.rows_file.write_text("".join(map(_line, rows)), encoding="utf-8")
        return rows

    def keep(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append samples in one go."""
        with self.rows_file.open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, rows)))

    def close(self, metrics: Mapping[str, float]) -> None:
        """All samples are there: write the result beside the settings."""
        self._head(metrics)

    def _head(self, metrics: Mapping[str, float] | None) -> None:
        head = {"settings": self.settings, "about": self.about, "metrics": metrics}
        aside = self.head_file.with_suffix(".json.new")
        aside.write_text(json.dumps(head, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        aside.replace(self.head_file)


def differing(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, before, now) of every value that is not the same; None stands for one that is missing."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            yield from differing(before.get(key), now.get(key), f"{path}.{key}".strip("."))
    elif before != now:
        yield path, before, now


def brief(value: object) -> str:
    """A value in a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _line(row: Mapping[str, Any]) -> str:
    # A lone surrogate becomes JSON's \udXXX, as Python's json writes it in ASCII.
    try:
        text = json.dumps(row, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(row)
    return text + "\n"


def settings_of(config: Config, name: str, problems: ProblemSet, weights: str, batch: int) -> dict[str, Any]:
    """All that the samples of [eval.NAME] depend on: of a diffusion model that is the device and the batch, too."""
    scope = config.values["eval"][name]
    options = {key: value for key, value in scope.items() if key not in (*SHARED, "pass_at")}
    device = device_of(config)
    content = [(key, task.prompt, task.answer) for key, task in problems.tasks.items()]
    return {
        "weights": weights,
        "problems": blake2b(json.dumps(content).encode(), digest_size=16).hexdigest(),
        **options,
        "seed": config.run.seed,
        "width": config.run.width,
        "attend_eos": config.run.attend_eos,
        **{table: scope.get(table, config.values[table]) for table in ("prompt", "sampler", "verifier")},
        "dtype": config.run.dtype,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "batch": batch,
        "versions": {
            each: importlib.metadata.version(each) for each in ("torch", "igpo-sampling", "igpo-data", "igpo-cli")
        },
    }
