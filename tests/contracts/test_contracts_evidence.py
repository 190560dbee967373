"""The arms of the evidence are configurations that hold, and its page has a place for every study."""

from __future__ import annotations

from pathlib import Path

import pytest
from evidence.arms import ARMS, STUDIES

from igpo_cli.config import resolve
from igpo_cli.plugins import Catalogue

CATALOGUE = Catalogue.installed()
PAGE = Path(__file__).parents[2] / "docs" / "evidence.md"


@pytest.mark.parametrize("name", ARMS)
def test_the_flags_of_an_arm_are_known_and_differ_from_the_preset(name: str) -> None:
    flags = dict(zip(*(iter(flag.removeprefix("--") for flag in ARMS[name].flags),) * 2, strict=True))
    config = resolve("tiny", None, flags, CATALOGUE)
    for kind in ("sampler", "chunker", "injection", "filter", "estimator", "loss", "task", "verifier"):
        config.plugin(kind)
    assert config.to_toml() != resolve("tiny", None, {}, CATALOGUE).to_toml()


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_compared_on_seeds_of_its_own_and_has_a_place_on_the_page(name: str) -> None:
    study = STUDIES[name]
    assert study.against in study.arms
    assert len(set(study.seeds)) >= 3
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(f"<!-- generated: {name} -->\n") == page.count(f"<!-- end: {name} -->") == 1


def test_one_arm_makes_the_checkpoint_that_all_others_start_from() -> None:
    assert [name for name, arm in ARMS.items() if not arm.from_sft] == ["sft"]
