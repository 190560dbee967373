"""Tasks from a data set on the Hugging Face hub, or from a local copy of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen, validators

from igpo_data.task import Task
from igpo_data.tasks.records import Columns

BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


@frozen(kw_only=True)
class HuggingFace:
    """Any data set of the Hugging Face hub, or a local file or folder of one."""

    path: str = field(validator=validators.min_len(1))
    """Name on the hub (openai/gsm8k), or a local folder or file (.jsonl, .json, .csv, .parquet; also .gz)."""
    config: str | None = None
    """Configuration of the data set (main), where it has several."""
    prompt: str = "prompt"
    """Column of the question."""
    answer: str = "answer"
    """Column of the reference answer; the same as `trace` where only the solution states it."""
    trace: str | None = None
    """Column of the worked solution, or none: then there are no hints."""
    key: str | None = None
    """Column of a unique, stable name of the problem; otherwise its place in the split."""
    answer_pattern: str | None = None
    """Regular expression with one group that finds the answer in its column, and hides it in the trace."""

    def __attrs_post_init__(self) -> None:
        self._columns()

    def __call__(self, split: str) -> list[Task]:
        """The rows of the split in order; ValueError names row and column of a bad one."""
        return self._columns().tasks(load_rows(self.path, self.config, split), f"{Path(self.path).name}/{split}")

    def _columns(self) -> Columns:
        return Columns(
            prompt=self.prompt, answer=self.answer, trace=self.trace, key=self.key, answer_pattern=self.answer_pattern
        )


def load_rows(path: str, config: str | None, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a split, each with its place; ConnectionError where the hub cannot be reached, with the remedy."""
    import datasets

    local = Path(path).expanduser()
    try:
        if local.is_file():
            suffix = Path(local.name.removesuffix(".gz")).suffix
            if suffix not in BUILDERS:
                raise ValueError(f"{local}: cannot read {suffix!r} files; use one of {', '.join(BUILDERS)}")
            rows = datasets.load_dataset(BUILDERS[suffix], data_files={split: str(local)}, split=split)
        else:
            rows = datasets.load_dataset(str(local) if local.is_dir() else path, config, split=split)
    except OSError as error:
        raise ConnectionError(
            f"cannot load the data set {path!r} ({type(error).__name__}: {str(error).splitlines()[0]}). Without a network, "
            f"place a copy of it at hand, a folder with {split}.jsonl or {split}.parquet, and set --task.path FOLDER"
        ) from error
    for index, row in enumerate(rows):
        yield f"{path} [{split}] row {index}", row
