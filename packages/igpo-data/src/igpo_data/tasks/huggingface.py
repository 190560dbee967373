"""Tasks from a data set on the Hugging Face hub, or from a local copy of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from attrs import field, frozen, validators

from igpo_data.task import Task
from igpo_data.tasks.files import Row, read_files, split_files
from igpo_data.tasks.records import Columns


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
    extra: tuple[str, ...] = ()
    """Columns that go into the task's meta, for a verifier or to choose by (level, tests)."""
    stream: bool = False
    """Read rows when they are asked for, from the hub too, so that the data may be larger than memory."""

    def __attrs_post_init__(self) -> None:
        self._columns()

    def __call__(self, split: str) -> list[Task] | Iterable[Task]:
        """The rows of the split in order; ValueError names row and column of a bad one."""
        rows = load_rows(self.path, self.config, split, stream=self.stream)
        tasks = self._columns().tasks(rows, f"{Path(self.path).name}/{split}")
        return tasks if self.stream else list(tasks)

    def _columns(self) -> Columns:
        return Columns(
            prompt=self.prompt,
            answer=self.answer,
            trace=self.trace,
            key=self.key,
            answer_pattern=self.answer_pattern,
            extra=self.extra,
        )


def load_rows(path: str, config: str | None, split: str, *, stream: bool = False) -> Iterator[Row]:
    """The rows of a split, each with its place, of local files where `path` is there, else of the hub.

    ConnectionError where the hub cannot be reached, with the remedy; ValueError for a split or configuration that it lacks.
    """
    local = Path(path.replace("{split}", split)).expanduser()
    if any((local / name).is_file() for name in ("dataset_dict.json", "state.json")):
        yield from _saved(local, split)
    elif local.exists() or path.startswith((".", "/", "~")) or "{split}" in path:
        yield from read_files(split_files(path, split, config))
    else:
        yield from _from_hub(path, config, split, stream)


def _from_hub(path: str, config: str | None, split: str, stream: bool) -> Iterator[Row]:
    import datasets

    try:
        rows = datasets.load_dataset(path, config, split=split, streaming=stream)
    except OSError as error:
        raise ConnectionError(
            f"cannot load the data set {path!r} ({type(error).__name__}: {str(error).splitlines()[0]}). Without a network, "
            f"place a copy of it at hand, a folder with {split}.jsonl or {split}.parquet, and set --task.path FOLDER"
        ) from error
    except ValueError as error:  # an unknown split or configuration; datasets says which ones there are
        raise ValueError(f"the data set {path!r} of the hub: {error}") from error
    for index, row in enumerate(rows):
        yield f"{path} [{split}] row {index}", row


def _saved(folder: Path, split: str) -> Iterator[Row]:
    """A folder that `save_to_disk` of datasets wrote."""
    import datasets

    saved = datasets.load_from_disk(str(folder))
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise ValueError(f"{folder} has no split {split!r}; it has {', '.join(saved)}")
        saved = saved[split]
    for index, row in enumerate(saved):
        yield f"{folder} [{split}] row {index}", row
