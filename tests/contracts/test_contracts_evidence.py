"""The arms of the evidence are configurations that hold, and its page has a place for every study."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from evidence.arms import ARMS, STUDIES, STUDY_OF

from igpo_cli.config import resolve
from igpo_cli.plugins import Catalogue

CATALOGUE = Catalogue.installed()
PAGE = Path(__file__).parents[2] / "docs" / "evidence.md"


@pytest.mark.parametrize("name", ARMS)
def test_the_flags_of_an_arm_are_known_and_differ_from_the_preset(name: str) -> None:
    flags = dict(zip(*(iter(flag.removeprefix("--") for flag in ARMS[name].flags),) * 2, strict=True))
    file = STUDY_OF[name].file
    plain = ("tiny", None) if file is None else (None, file)
    config = resolve(*plain, flags, CATALOGUE)
    for kind in ("sampler", "chunker", "injection", "filter", "estimator", "loss", "task", "verifier"):
        config.plugin(kind)
    assert config.to_toml() != resolve(*plain, {}, CATALOGUE).to_toml()


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_compared_on_seeds_of_its_own_and_has_a_place_on_the_page(name: str) -> None:
    study = STUDIES[name]
    assert study.against in study.arms
    assert len(set(study.seeds)) >= 3
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(f"<!-- generated: {name} -->\n") == page.count(f"<!-- end: {name} -->") == 1


def test_one_arm_makes_the_checkpoint_that_all_others_start_from() -> None:
    starts = {name for name, arm in ARMS.items() if not arm.from_sft}
    assert starts == {study.start for study in STUDIES.values()}
    assert all(study.start in study.arms for study in STUDIES.values() if study.file is not None)


@pytest.mark.slow
def test_the_study_for_a_gpu_runs_through_on_a_cpu_at_a_small_size(tmp_path: Path) -> None:
    small = (
        *("--device", "cpu", "--precision", "float32", "--model.width", "32", "--model.layers", "1"),
        *("--model.heads", "2", "--model.inner", "64", "--width", "96", "--sampler.steps", "3", "--sft.batch", "8"),
        *("--prompts", "2", "--group", "2", "--updates", "1", "--task.train_problems", "32", "--steps", "2"),
        *(
            "--eval.heldout.limit",
            "4",
            "--eval.common.limit",
            "4",
            "--sft.task.train_problems",
            "64",
            "--sft.steps",
            "2",
        ),
    )
    arms = ("--arms", "words-sft,words-grpo,words-igpo", "--seeds", "11", "--jobs", "1", "--folder", str(tmp_path))
    command = (sys.executable, "-m", "evidence", "--studies", "words", *arms, *small)
    done = subprocess.run(command, cwd=PAGE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "**words-igpo**" in done.stdout
    for arm in ("words-sft", "words-grpo", "words-igpo"):
        result = json.loads((tmp_path / "results" / f"{arm}-11.json").read_text())
        assert result["problems"] == 4
        assert ("stuck_before" in result) == (arm != "words-sft")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_the_study_for_a_gpu_refuses_where_there_is_none() -> None:
    command = (sys.executable, "-m", "evidence", "--studies", "words")
    done = subprocess.run(command, cwd=PAGE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "words would take days without a GPU" in done.stderr
