"""`igpo push`: a run's model, or its adapters alone, on the Hugging Face hub, with a card that says how it came about."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from igpo_cli.commands import App
from igpo_cli.completion import run_names
from igpo_cli.errors import RunError, UsageError, configuring, note

if TYPE_CHECKING:
    from igpo_cli.report.arms import Arm

CARD = "README.md"
SKIPPED = ("complete.json", ".*")
"""Files of a run's own bookkeeping."""


def register(app: App) -> None:
    """Adds the command."""

    @app.command()
    def push(
        run: Annotated[str, typer.Argument(metavar="RUN", help="Folder or name of a run.", autocompletion=run_names)],
        repo: Annotated[str, typer.Argument(metavar="USER/NAME", help="The repository; made if it is not there.")],
        adapters: Annotated[
            bool, typer.Option("--adapters", help="Only the low-rank adapters, for the model that they belong to.")
        ] = False,
        base: Annotated[
            str | None, typer.Option(metavar="USER/NAME", help="The published model that the run started from.")
        ] = None,
        private: Annotated[bool, typer.Option("--private", help="A repository that is made is private.")] = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Write the card and list the files, without network.")
        ] = False,
        new_card: Annotated[
            bool, typer.Option("--new-card", help="Write the card anew where there is one; you may have edited it.")
        ] = False,
        folder: Annotated[Path, typer.Option(help="Where the runs are.")] = Path("runs"),
        as_json: Annotated[bool, typer.Option("--json", help="One object.")] = False,
    ) -> None:
        """Push a run's model to the Hugging Face hub, with a model card made from the run."""
        from igpo_cli.card import base_of, card, start_of
        from igpo_cli.history import find, read
        from igpo_cli.report.arms import read_arm

        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
            raise UsageError(f"'{repo}' is no name of a repository. It looks like USER/NAME.")
        with configuring():
            past = read(find(run, folder))
            arm = read_arm(past.folder, past.name)
        if past.state != "finished":
            raise UsageError(f"{past.folder} is {past.state}: it has no final model yet. igpo runs show {past.folder}")
        found = base or base_of(past.config)
        source = staged(arm, found) if adapters else past.folder / "model"
        written = new_card or not (source / CARD).exists()
        if written:
            (source / CARD).write_text(card(arm, repo, app.catalogue, found, adapters=adapters), encoding="utf-8")
        files = {path.name: path.stat().st_size for path in sorted(source.iterdir()) if kept(path)}
        url = None if dry_run else upload(source, repo, private=private)
        if as_json:
            about = {"repo": repo, "folder": str(source), "card": str(source / CARD), "files": files, "url": url}
            print(json.dumps(about, indent=2))
        else:
            given = {
                "--adapters": adapters,
                "--private": private,
                "--base": base,
                "--folder": folder != Path("runs") and folder,
            }
            flags = [
                word for flag, value in given.items() if value for word in (flag, value)[: 1 if value is True else 2]
            ]
            show(source, files, written, url, shlex.join(["igpo", "push", run, repo, *map(str, flags)]))
            if found is None and (start := start_of(past.config)) is not None:
                note(f"the card does not say what {start} is. --new-card --base USER/NAME names its published twin.")


def kept(path: Path) -> bool:
    """Whether a file goes to the hub."""
    return path.is_file() and not any(path.match(pattern) for pattern in SKIPPED)


def staged(arm: Arm, base: str | None) -> Path:
    """RUN/adapter/: the adapters of all phases as one, on the published model."""
    from igpo_cli.lora import stacked

    found = [place for phase in ("sft", "igpo") if (place := arm.folder / "adapters" / phase).is_dir()]
    if not found:
        raise UsageError(f"{arm.folder} holds no adapters. Leave --adapters out, to push the model.")
    if base is None:
        raise UsageError(
            "adapters are of use only with a model that others can load, and this run started from nothing or from files "
            "of yours. Leave --adapters out, or name its published twin with --base USER/NAME."
        )
    with configuring():
        stacked(found, arm.folder / "adapter", base)
    return arm.folder / "adapter"


def upload(source: Path, repo: str, *, private: bool) -> str:
    """Everything in the folder in one commit; the address. RunError says what the hub lacks."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=source, commit_message="Model and card by igpo", ignore_patterns=list(SKIPPED)
        )
    except LocalTokenNotFoundError as error:
        raise RunError(NOBODY) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise RunError(NOBODY) from error
        if status == 403:
            raise RunError(f"the hub does not let you write to {repo}: the token needs write access there.") from error
        raise RunError(f"the hub refused ({status}): {error.server_message or str(error).splitlines()[0]}") from error
    except Exception as error:
        # which library carries the requests, and so whose error this is, differs between versions of huggingface_hub
        if not isinstance(error, OSError) and "TransportError" not in {base.__name__ for base in type(error).__mro__}:
            raise
        raise RunError(
            f"the hub at {api.endpoint} cannot be reached ({error}). Nothing is lost: run this again."
        ) from error
    return str(url)


NOBODY = "the hub does not know who you are. Log in with: hf auth login (or set HF_TOKEN to a token with write access)."


def show(source: Path, files: dict[str, int], written: bool, url: str | None, again: str) -> None:
    """The files, and what happened."""
    from igpo_cli.history import bytes_of
    from igpo_cli.table import Column
    from igpo_cli.table import show as table

    rows = [[name, bytes_of(size)] for name, size in files.items()]
    table([Column("file"), Column("size", right=True)], rows)
    print(f"\nCard: {source / CARD}" + ("" if written else ", kept as it was (--new-card writes it anew)"))
    print(f"Pushed to {url}" if url else f"Nothing was sent. Read the card, edit it, then: {again}")
