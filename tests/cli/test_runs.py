"""Run directories: names are free ones, and nothing is overwritten."""

import json
import subprocess
import sys

import pytest

from igpo_cli.errors import UsageError
from igpo_cli.runs import claim, environment, holding, is_running, last_step


def test_an_unnamed_run_takes_the_next_free_number(tmp_path):
    assert [claim(tmp_path, "tiny", explicit=False).name for _ in range(3)] == ["tiny-1", "tiny-2", "tiny-3"]


def test_a_named_run_that_holds_steps_is_refused_with_the_way_out(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"phase": "igpo", "step": 400}\n')
    with pytest.raises(UsageError) as caught:
        claim(tmp_path, "tiny", explicit=True)
    assert str(caught.value) == (f"{folder} already holds step 400. Continue with --resume {folder} or choose --name.")


def test_any_other_folder_with_something_in_it_is_refused_too(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="is not empty"):
        claim(tmp_path, "notes", explicit=True)
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "precious"


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "mine").mkdir()
    assert claim(tmp_path, "mine", explicit=True) == tmp_path / "mine"
    assert last_step(tmp_path / "mine") is None


def test_environment_names_versions_and_no_places(tmp_path):
    told = environment("cpu")
    assert told["packages"]["igpo-rl"] != "not installed"
    assert str(tmp_path.home()) not in json.dumps(told)


def test_one_process_at_a_time_trains_in_a_folder(tmp_path):
    assert not is_running(tmp_path)
    with holding(tmp_path):
        assert is_running(tmp_path)
        with pytest.raises(UsageError, match="is being trained by another process"), holding(tmp_path):
            pass
    assert not is_running(tmp_path)


def test_the_lock_dies_with_its_process(tmp_path):
    code = "import sys; from pathlib import Path; from igpo_cli.runs import holding\n"
    code += "with holding(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    assert is_running(tmp_path)
    process.kill()
    process.communicate()
    assert not is_running(tmp_path)
