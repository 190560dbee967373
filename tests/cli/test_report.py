from __future__ import annotations

import html
import itertools
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from igpo_cli.commands import report as command
from igpo_cli.errors import UsageError
from igpo_cli.evaluate import wilson
from igpo_cli.health import Finding
from igpo_cli.report import samples, write_report
from igpo_cli.report.arms import families, mean, read_arms
from igpo_cli.report.chart import POINTS, escape, smooth, thin, ticks
from igpo_cli.report.page import page
from igpo_cli.report.samples import reason
from igpo_cli.report.summary import comparison, findings, gain
from igpo_cli.tracking import Tracker

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\x1b[31m\x00\u202e\ud800</pre></title>"


def a_rollout(step: int, row: int, **values: Any) -> dict[str, Any]:
    return {
        "phase": "igpo",
        "step": step,
        "key": f"train-{step}",
        "group": 0,
        "row": row,
        "prompt": "rev zip : a b ?",
        "trace": "rev b a zip a b",
        "tokens": ["rev", " b", " a", " <eos>", " <eos>"],
        "hint": [0, 0, 0, 0, 0],
        "order": [2, 0, 1, 1, 2],
        "confidence": [0.91, 0.5, 0.25, 1.0, None],
        "end": 4,
        "reward": 0.0,
        "correct": False,
        "note": "",
        "advantage": -0.25,
        "hinted": False,
        "stuck": True,
    } | values


def a_run(
    folder: Path,
    *,
    seed: int = 0,
    injection: str = "uniform-chunks",
    opened: float = 0.5,
    end: float = 0.25,
    steps: int = 12,
    planned: int = 12,
    problems: int = 512,
    extra: dict[str, float] | None = None,
) -> Path:
    """A run directory written by the real tracker. Of 8 groups 6 are stuck at odd steps, 8 at even ones."""
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text(
        f'name = "{folder.name}"\nseed = {seed}\nsteps = {planned}\n\n[model]\nname = "tiny"\n\n[task]\nname = "lists"\n\n'
        f'[injection]\nname = "{injection}"\n\n[sft]\nsteps = 30\n'
    )
    (folder / "environment.json").write_text(json.dumps({"python": "3.11", "packages": {"torch": "2.13.0"}}))
    tracker = Tracker(folder, totals={"sft": 30, "igpo": planned})

    def evaluate(step: int, share: float) -> None:
        low, high = wilson(round(share * problems), problems)
        tracker.log(
            step,
            "igpo",
            {
                "eval/heldout/pass@1": share,
                "eval/heldout/low": low,
                "eval/heldout/high": high,
                "eval/heldout/problems": problems,
            },
        )

    for step in range(1, 31):
        tracker.log(step, "sft", {"sft/loss": 3 / step, "sft/accuracy": 1 - 1 / step})
    evaluate(0, 0.0625)
    for step in range(1, steps + 1):
        before = 0.75 if step % 2 else 1.0
        tracker.log(
            step,
            "igpo",
            {
                "stuck/before": before,
                "stuck/after": before * (1 - opened),
                "stuck/rescued": opened,
                "reward/mean": step / 100,
                "policy/entropy": 1.0,
                "policy/kl": step / 1000,
                "optimizer/skipped": 0.0,
            }
            | (
                {"hint/rows": 0.1, "hint/tokens": 0.03, "hint/answer_leak": 0.0}
                if injection == "uniform-chunks"
                else {"hint/rows": 0.1, "hint/tokens": 0.0, "hint/answer_leak": 0.0}  # replaced rows, but no hints
                if injection == "resample"
                else {}
            )
            | (extra or {}),
        )
    hints = {"hint": [0, 1, 0, 0, 0], "order": [2, -1, 1, 1, 2]}
    tracker.rollouts(steps, [a_rollout(steps, 0), a_rollout(steps, 1, correct=True, hinted=True, reward=1.0, **hints)])
    evaluate(steps, end)
    return folder


def arm_of(folder: Path) -> Any:
    return read_arms([folder])[0]


def texts(folder: Path) -> list[str]:
    return [finding.text for finding in findings(arm_of(folder)) if finding.level != "good"]


class Page(HTMLParser):
    """Every tag with its attributes, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "line", "path", "circle", "polyline", "polygon"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words += data

    def of(self, tag: str, name: str = "") -> list[dict[str, str | None]]:
        return [attrs for found, attrs in self.tags if found == tag and name in (attrs.get("class") or "").split(" ")]


def read(text: str) -> Page:
    found = Page(text)
    assert found.open == []
    return found


def spaces(text: str) -> str:
    return text.replace("\u00a0", " ")


# The numbers ----------------------------------------------------------------------------------------------------------


def test_the_words_say_what_the_data_say(tmp_path: Path) -> None:
    run = a_run(tmp_path / "igpo", opened=0.5, end=0.25)
    words = spaces(read(page(read_arms([run]))).words)
    low, high = wilson(128, 512)
    assert "88 % of groups were stuck, hints opened 50 % of them" in words
    assert f"accuracy on heldout 0.06 → 0.25 (95 % interval {low:.2f} to {high:.2f}, 512 problems)" in words
    assert "88 % → 44 %" in words  # the table
    assert "0.015 → 0.115" in words  # reward of the first and of the last sixth
    assert "model tiny, task lists, seed 0" in words


def test_the_share_that_was_opened_counts_groups_not_steps(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    tracker = Tracker(folder)
    for step, (before, after) in enumerate([(1.0, 0.5), (0.125, 0.125), (0.0, 0.0)], 1):
        tracker.log(step, "igpo", {"stuck/before": before, "stuck/after": after})
    stuck, opened = arm_of(folder).opened()
    assert stuck == 1.125 / 3
    assert opened == pytest.approx(0.5 / 1.125)
    faulty = (0.5 + 0.0) / 2  # the mean of the steps' shares
    assert opened != pytest.approx(faulty)


def test_without_a_second_rollout_nothing_is_said_to_be_opened(tmp_path: Path) -> None:
    run = a_run(tmp_path / "grpo", injection="none", opened=0.0)
    words = spaces(read(page(read_arms([run]))).words)
    assert "88 % of groups were stuck; without a second rollout they stayed so" in words
    assert "hints opened" not in words


def test_the_control_is_not_said_to_have_hints(tmp_path: Path) -> None:
    words = spaces(read(page(read_arms([a_run(tmp_path / "resample", injection="resample", opened=0.0625)]))).words)
    assert "a second rollout without hints opened 6 % of them" in words
    assert "hints opened" not in words.replace("without hints opened", "")


@given(
    st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))),
)
def test_the_interval_of_a_change_holds_it_and_contains_less_than_both_ends_allow(case: tuple[int, int, int]) -> None:
    from igpo_cli.report.arms import Evaluation
    from igpo_cli.tracking import Score

    size, first, last = case

    def at(count: int) -> Evaluation:
        low, high = wilson(count, size)
        return Evaluation(
            phase="igpo", step=0, score=Score(name="x", metric="pass@1", value=count / size, low=low, high=high)
        )

    start, end = at(first), at(last)
    change, interval = gain(start, end)
    assert interval is not None
    assert interval[0] <= change + 1e-12
    assert change <= interval[1] + 1e-12
    assert interval[0] >= end.score.low - start.score.high - 1e-12  # type: ignore[operator]
    assert interval[1] <= end.score.high - start.score.low + 1e-12  # type: ignore[operator]


def test_newcombes_own_example() -> None:
    """56/70 and 48/80 (Newcombe 1998, table II, example a, method 10): 0.0524 to 0.3339."""
    from igpo_cli.report.arms import Evaluation
    from igpo_cli.tracking import Score

    def at(count: int, size: int) -> Evaluation:
        low, high = wilson(count, size)
        return Evaluation(
            phase="igpo", step=0, score=Score(name="x", metric="pass@1", value=count / size, low=low, high=high)
        )

    change, interval = gain(at(48, 80), at(56, 70))
    assert change == pytest.approx(0.2)
    assert interval == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_curves_carry_the_measured_numbers(tmp_path: Path) -> None:
    found = read(
        page(read_arms([a_run(tmp_path / "igpo", steps=11, planned=11)]))
    )  # under 12 steps nothing is smoothed
    by_label = {attrs["data-label"]: attrs["data-p"] for attrs in found.of("polyline", "curve")}
    assert by_label["igpo before"] == " ".join(f"{step}:{0.75 if step % 2 else 1}" for step in range(1, 12))
    assert by_label["igpo after"] == " ".join(f"{step}:{0.375 if step % 2 else 0.5}" for step in range(1, 12))
    assert any(attrs["data-p"] == "0:0.0625 11:0.25" for attrs in found.of("polyline", "curve"))


def test_what_is_the_same_at_every_step_is_a_word_not_a_chart(tmp_path: Path) -> None:
    words = read(page(read_arms([a_run(tmp_path / "igpo")]))).words
    assert "The same at every step: entropy 1" in words
    assert "nats a token: " not in words


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    Tracker(folder).log(1, "igpo", {"reward/mean": 0.5, "policy/kl": math.nan})
    words = read(page(read_arms([folder]))).words
    for absent in ("stuck", "accuracy", "KL", "Supervised", "Rollouts", "Configuration", "nan", "None", "opened"):
        assert absent not in words.split("stuck: a group")[0]  # the footer explains words
    assert "reward 0.5" in words


def test_a_run_that_has_just_begun_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"phase": "igpo", "st')
    assert "Nothing was measured yet" in read(page(read_arms([tmp_path]))).words


def test_an_unfinished_line_is_left_out(tmp_path: Path) -> None:
    run = a_run(tmp_path / "igpo", planned=60)
    for path in (run / "metrics.jsonl", run / "rollouts" / "step-12.jsonl"):
        path.write_text(path.read_text() + '{"phase": "igpo", "step": 1')
    found = read(page(read_arms([run]))).words
    assert "at step 12 of 60" in found


def test_sft_alone_has_a_report(tmp_path: Path) -> None:
    folder = tmp_path / "sft"
    folder.mkdir()
    (folder / "run.toml").write_text("seed = 0\nsteps = 0\n\n[sft]\nsteps = 30\n")
    tracker = Tracker(folder)
    for step in range(1, 31):
        tracker.log(step, "sft", {"sft/loss": 3 / step, "sft/accuracy": 1 - 1 / step})
    for step, value in ((0, 0.1), (30, 0.5)):
        tracker.log(
            step,
            "sft",
            {"eval/heldout/pass@1": value, "eval/heldout/low": value - 0.05, "eval/heldout/high": value + 0.05},
        )
    words = spaces(read(page(read_arms([folder]))).words)
    assert "Accuracy on heldout 0.10 → 0.50" in words
    assert "Supervised fine-tuning" in words
    assert "Rollouts" not in words
    assert "Stuck groups" not in words


def test_values_carry_their_origins(tmp_path: Path) -> None:
    run = a_run(tmp_path / "igpo")
    (run / "origins.json").write_text(json.dumps({"steps": "mine.toml", "injection.name": "flag", "seed": "default"}))
    words = read(page(read_arms([run]))).words
    assert "optionvaluefromsteps12mine.tomlinjection.nameuniform-chunksflagrun.toml" in words


def test_time_by_phase_is_the_median_step(tmp_path: Path) -> None:
    run = a_run(tmp_path / "igpo", extra={"time/rollout": 2.5, "time/speed": 1234.5})
    words = read(page(read_arms([run]))).words
    assert "rollout2.5tokens a second of sampling1,234" in words


def test_spikes_get_a_logarithmic_scale(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    tracker = Tracker(folder)
    for step in range(12):
        tracker.log(step, "igpo", {"policy/ratio_max": 7000.0 if step == 5 else 2.0 * (step > 0)})
    text = page(read_arms([folder]))
    (figure,) = [part for part in re.findall(r"<figure.*?</figure>", text, flags=re.DOTALL) if "Largest ratio" in part]
    assert "logarithmic" in figure
    heights = [
        float(pair.split(",")[1]) for pair in re.findall(r'class="curve[^"]*" points="([^"]+)"', figure)[0].split()
    ]
    assert len(heights) == 11  # 0 has no logarithm
    labels = re.findall(r'class="y"[^>]*>([^<]+)<', figure)
    assert labels == ["1", "10", "100", "1e+03", "1e+04"]


# Several runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def arms(tmp_path: Path) -> list[Path]:
    return [
        a_run(tmp_path / "igpo"),
        a_run(tmp_path / "grpo", injection="none", opened=0.0, end=0.125),
        a_run(tmp_path / "resample", injection="resample", opened=0.0625, end=0.1328125),
    ]


def test_every_arm_is_in_every_curve(arms: list[Path]) -> None:
    text = page(read_arms(arms))
    for figure in re.findall(r"<figure.*?</figure>", text, flags=re.DOTALL):
        labels = {label.split(" ")[0] for label in re.findall(r'data-label="([^"]+)"', figure)}
        title = re.search("<h3>(.*?)</h3>", figure)
        assert title is not None
        assert labels == ({"igpo", "resample"} if title.group(1) == "Hint share" else {"igpo", "grpo", "resample"})
        assert len(set(re.findall(r'class="curve (a\d)', figure))) == len(labels)
    assert len(read(text).of("tr")) == 1 + 3 + 1 + 1  # arms, and the options in which they differ


def test_the_best_arm_is_named_with_its_lead(arms: list[Path]) -> None:
    words = spaces(read(page(read_arms(arms))).words)
    assert (
        "igpo ends highest on heldout: 0.25 against 0.13 of resample, a difference of +0.12 (95 % interval +0.07 to"
        in words
    )


def test_arms_within_their_intervals_are_not_ranked(arms: list[Path]) -> None:
    words = read(page(read_arms(arms[1:]))).words
    assert "On heldout resample and grpo cannot be told apart" in words
    assert "ends highest" not in words


def test_options_in_which_the_arms_differ_are_listed(arms: list[Path]) -> None:
    words = read(page(read_arms(arms))).words
    assert "Where the runs differoptionigpogrporesampleinjection.nameuniform-chunksnoneresampleigpo: run.toml" in words


def test_comparisons_that_are_not_fair_are_flagged(tmp_path: Path, arms: list[Path]) -> None:
    other = a_run(tmp_path / "other", steps=9, planned=9, problems=64)
    found = [finding.text for finding in comparison(families(read_arms([arms[0], other])))]
    assert "The runs differ in their steps: 12; 9" in found
    assert "The runs were evaluated on different numbers of problems of heldout" in found
    assert "Not the same information: igpo saw parts of the reference traces, grpo, resample did not" in [
        finding.text for finding in comparison(families(read_arms(arms)))
    ]


def test_arms_that_cannot_be_told_apart_by_any_digit_are_flagged(tmp_path: Path) -> None:
    losses = {"policy/loss": 0.25, "reward/spliced": 0.5}
    runs = [a_run(tmp_path / name, planned=planned, extra=losses) for name, planned in (("one", 12), ("two", 13))]
    runs.append(a_run(tmp_path / "three", planned=14, extra=losses | {"policy/loss": 0.2500001}))
    found = [finding.text for finding in comparison(families(read_arms(runs)))]
    assert "one and two gave the very same numbers: what they differ in had no effect" in found
    assert not any("three gave" in text for text in found)


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [a_run(tmp_path / seed / "igpo") for seed in ("seed-1", "seed-2")]
    assert [arm.name for arm in read_arms(folders)] == ["seed-1/igpo", "seed-2/igpo"]


# Trust ----------------------------------------------------------------------------------------------------------------


def test_a_sound_run_has_no_warning(tmp_path: Path) -> None:
    assert texts(a_run(tmp_path / "igpo")) == []


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({"extra": {"hint/answer_leak": 2.0}}, "24 hint tokens lay inside an answer span"),
        ({"planned": 60}, "at step 12 of 60"),
        ({"extra": {"optimizer/skipped": 0.25}}, "updates were refused at 12 steps"),
        ({"extra": {"policy/loss": math.inf}}, "numbers were not finite at 12"),
        ({"end": 0.078125}, "cannot be told from none with 512 problems"),
        ({"end": 0.0, "extra": {"reward/mean": 0.1}}, "fell by more than"),
        ({"opened": 0.0, "extra": {"stuck/after": 1.0, "stuck/before": 1.0}}, "next to nothing to learn from"),
        ({"extra": {"sample/eos": 0.29}}, "71 % of completions never end"),
        ({"extra": {"policy/kl": 2.5}}, "reached 2.5 nats"),
        ({"extra": {"policy/ratio_max": 1e6}}, "ratio reached 1e+06"),
    ],
)
def test_each_warning_has_its_cause(tmp_path: Path, options: dict[str, Any], warning: str) -> None:
    (found,) = texts(a_run(tmp_path / "igpo", **options))
    assert warning in spaces(found)


def test_a_collapse_of_entropy_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    tracker = Tracker(folder)
    for step in range(1, 21):
        tracker.log(step, "igpo", {"policy/entropy": 0.5**step})
    assert any("entropy fell below a tenth" in text for text in texts(folder))


def test_the_worst_finding_comes_first(tmp_path: Path) -> None:
    text = page(read_arms([a_run(tmp_path / "igpo", extra={"hint/answer_leak": 1.0}, planned=60)]))
    levels = re.findall(r'<li class="(\w+)"><span>', text)
    assert levels == sorted(levels, key=["bad", "warn", "note", "good"].index)
    assert levels[0] == "bad"


def test_a_finding_of_all_arms_is_one_line(arms: list[Path]) -> None:
    words = read(page(read_arms(arms))).words
    assert words.count("All runs: All planned steps were taken") == 1
    assert Finding("good", "all planned steps were taken") in list(findings(arm_of(arms[0])))


# Safety ---------------------------------------------------------------------------------------------------------------


def hostile_run(folder: Path) -> Path:
    folder = a_run(folder / "<b onmouseover=alert(3)>&")
    (folder / "run.toml").write_text(
        f"seed = 0\nname = {json.dumps(HOSTILE[:60])}\n\n[model]\nname = '''<script>x'''\n"
    )
    (folder / "environment.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    tracker = Tracker(folder)
    hostile = {"tokens": [HOSTILE] * 5, "prompt": HOSTILE, "trace": HOSTILE, "key": HOSTILE, "note": HOSTILE}
    tracker.rollouts(12, [a_rollout(12, 0, **hostile), a_rollout(12, 1, correct=True, hint=[1] * 5, **hostile)])
    low = {
        f"eval/{HOSTILE.replace('/', '')}/{name}": value
        for name, value in (("pass@1", 0.5), ("low", 0.4), ("high", 0.6))
    }
    tracker.log(12, "igpo", low)
    return folder


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    other = a_run(tmp_path / "igpo")
    for folders in ([hostile_run(tmp_path)], [tmp_path / "<b onmouseover=alert(3)>&", other]):
        text = page(read_arms(folders))
        found = read(text)
        assert [attrs.get("type") for attrs in found.of("script")] == ["application/json", None]
        assert not set(data_of(text)) & set("<>&")
        assert found.of("img") == []
        assert found.of("b", "onmouseover") == []
        assert not [name for _, attrs in found.tags for name in attrs if name.startswith("on")]
        assert "<script>alert(1)</script>" in found.words  # shown as what it is
        assert not set(text) & {"\x1b", "\x00", "\u202e"}
        text.encode("utf-8")


def test_the_check_above_would_see_unescaped_text(tmp_path: Path) -> None:
    text = page(read_arms([hostile_run(tmp_path)]))
    faulty = html.unescape(text)
    parser = Page.__new__(Page)
    HTMLParser.__init__(parser)
    parser.tags, parser.open, parser.words = [], [], ""
    parser.handle_endtag = lambda tag: None  # type: ignore[method-assign]
    parser.feed(faulty)
    assert parser.of("img")
    assert len(parser.of("script")) > 1


@given(st.text(alphabet=st.characters(codec=None)))
def test_escaped_text_reads_back_and_holds_no_markup(text: str) -> None:
    safe = escape(text)
    assert not set(safe) & set("<>\"'")
    printable = "".join(c for c in text if c.isprintable() and not 0xD800 <= ord(c) <= 0xDFFF)
    if printable == text:
        assert html.unescape(safe) == text


def test_the_page_fetches_nothing(arms: list[Path]) -> None:
    text = page(read_arms(arms))
    found = read(text)
    for tag, attrs in found.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
        assert not {"src", "href", "srcset", "action"} & set(attrs), tag
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttpRequest", text)
    (policy,) = (attrs["content"] for attrs in found.of("meta") if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert not [tag for tag, attrs in found.tags if "style" in attrs]  # the policy would ignore them


def test_the_page_stays_small(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "long", steps=3000, planned=3000)
    tokens = {"tokens": [" word"] * 2000, "hint": [0] * 2000, "order": list(range(2000)), "confidence": [0.5] * 2000}
    Tracker(folder).rollouts(3000, [a_rollout(3000, row, end=2000, correct=row == 0, **tokens) for row in range(8)])
    assert len(page(read_arms([folder]))) < 160_000


# Charts ---------------------------------------------------------------------------------------------------------------


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_cover_the_range_and_are_few(low: float, span: float) -> None:
    found = ticks(low, low + span)
    slack = 1e-6 * max(1.0, abs(low), span)
    assert found[0] <= low + slack
    assert found[-1] >= low + span - slack
    assert 2 <= len(found) <= 7
    assert all(a < b for a, b in itertools.pairwise(found))


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=700))
def test_thinning_keeps_the_mean_of_equal_stretches(values: list[float]) -> None:
    points = thin(list(enumerate(values)))
    assert len(points) == min(len(values), POINTS)
    assert min(values) - 1e-9 <= min(v for _, v in points)
    assert max(v for _, v in points) <= max(values) + 1e-9
    if len(values) % POINTS == 0:
        assert math.fsum(v for _, v in points) / len(points) == pytest.approx(math.fsum(values) / len(values), abs=1e-9)


def test_a_running_mean_is_centred_and_shorter_at_the_ends() -> None:
    assert smooth([(1, 0.0), (2, 3.0), (3, 6.0), (4, 0.0)], 3) == [(1, 1.5), (2, 3.0), (3, 3.0), (4, 3.0)]
    assert smooth([(1, 5.0), (2, 7.0)], 1) == [(1, 5.0), (2, 7.0)]


# Samples --------------------------------------------------------------------------------------------------------------


def data_of(text: str) -> str:
    (found,) = re.findall(r'<script type="application/json" id=data>(.*?)</script>', text, flags=re.DOTALL)
    return str(found)


def groups_of(text: str) -> list[dict[str, Any]]:
    """The data block with its words put in."""
    data = json.loads(data_of(text))
    words = data["words"]
    for group in data["groups"]:
        group |= {name: words[group[name]] for name in ("key", "prompt", "trace", "state")}
        group["rows"] = [
            (flags, words[facts], [words[token] for token in tokens], *rest)
            for flags, facts, tokens, *rest in group["rows"]
        ]
    return list(data["groups"])


def test_rollouts_carry_tokens_order_confidence_and_verdict(tmp_path: Path) -> None:
    (group,) = groups_of(page(read_arms([a_run(tmp_path / "igpo")])))
    assert (group["step"], group["prompt"], group["trace"]) == (12, "rev zip : a b ?", "rev b a zip a b")
    assert group["state"] == "was stuck; 1 of 2 rows replaced"
    right, wrong = group["rows"]
    tokens = ["rev", " b", " a", " <eos>"]
    assert right == (1 + 2 + 4, "reward 1, advantage \u22120.25", tokens, [2, -1, 1, 1], [91, 50, 25, 100], 1)
    assert wrong == (0, "reward 0, advantage \u22120.25", tokens, [2, 0, 1, 1], [91, 50, 25, 100], 1)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"note": "no-answer"}, "no answer was found"),
        ({"note": "of-its-own", "answer": "3"}, "of-its-own"),
        ({"answer": "17", "expected": "18", "correct": False}, "answer 17, expected 18"),
        ({"answer": "18", "expected": "18", "correct": False}, "answer 18 is right, but not the working"),
        ({"answer": "18", "expected": "18", "correct": True, "derived": 0.0}, "answer 18, but the working is wrong"),
        ({"answer": "18", "expected": "18", "correct": True, "derived": None}, "answer 18"),
        ({}, ""),
    ],
)
def test_a_verdict_has_its_reason(row: dict[str, Any], why: str) -> None:
    assert reason(row) == why


def test_the_telling_groups_come_first(tmp_path: Path) -> None:
    run = a_run(tmp_path / "igpo")
    states = {0: (True, True), 1: (False, False), 2: (True, False), 3: (True, True)}
    rows = [
        a_rollout(13, row, group=group, correct=verdict, hinted=group == 3 and row == 0, stuck=group == 1)
        for group, verdicts in states.items()
        for row, verdict in enumerate(verdicts)
    ]
    Tracker(run).rollouts(13, rows)
    found = [group for group in groups_of(page(read_arms([run]))) if group["step"] == 13]
    assert [group["state"] for group in found] == [
        "2 of 2 rows correct",  # one of them inpainted
        "1 of 2 rows correct",
        "stuck",
        "2 of 2 rows correct",
    ]


def test_what_does_not_fit_is_left_out_evenly_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(tmp_path / "igpo")
    for step in range(1, 41):
        rows = [a_rollout(step, row, group=group) for group in range(4) for row in range(2)]
        Tracker(run).rollouts(step, rows)
    monkeypatch.setattr(samples, "BUDGET", 40 * 2 * 4)  # 40 groups of two rows of four tokens
    text = page(read_arms([run]))
    found = groups_of(text)
    assert len(found) == 40
    steps = [group["step"] for group in found]
    assert (max(steps), min(steps), len(set(steps))) == (40, 1, samples.STEPS)
    assert "Left out to keep the page small: 56 of 96 groups and the rollouts of 16 steps" in read(text).words


@given(st.integers(0, 40))
def test_steps_are_taken_evenly_from_both_ends(count: int) -> None:
    order = samples.spread(count)
    assert sorted(order) == list(range(count))
    for size in range(2, count + 1):
        gaps = [b - a for a, b in itertools.pairwise(sorted(order[:size]))]
        assert max(gaps) <= 2 * min(gaps) + 2


def test_few_groups_still_span_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(tmp_path / "igpo")
    for step in range(1, 41):
        Tracker(run).rollouts(step, [a_rollout(step, 0)])
    monkeypatch.setattr(samples, "BUDGET", 3 * 4)
    assert [group["step"] for group in groups_of(page(read_arms([run])))] == [40, 20, 1]


def test_one_group_is_always_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "BUDGET", 0)
    assert len(groups_of(page(read_arms([a_run(tmp_path / "igpo")])))) == 1


# Seeds ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def seeds(tmp_path: Path) -> list[Path]:
    """Three seeds of one arm, two of another; each from its own checkpoint."""
    folders = []
    for seed, end in ((1, 0.25), (2, 0.5), (3, 0.375)):
        folders.append(a_run(tmp_path / f"igpo-{seed}", seed=seed, end=end))
    for seed, end in ((1, 0.0625), (2, 0.125)):
        folders.append(a_run(tmp_path / f"grpo-{seed}", seed=seed, end=end, injection="none", opened=0.0))
    return folders


def test_runs_that_differ_in_their_seed_alone_are_one_arm(seeds: list[Path], tmp_path: Path) -> None:
    other = a_run(tmp_path / "igpo-9", seed=9, planned=24)
    found = families(read_arms([*seeds, other]))
    assert [(family.name, len(family.arms)) for family in found] == [("igpo", 3), ("grpo", 2), ("igpo-9", 1)]
    twins = [a_run(tmp_path / folder / "igpo", seed=1) for folder in ("a", "b")]
    assert [len(family.arms) for family in families(read_arms(twins))] == [1, 1]  # the same seed twice


def test_a_seed_that_is_also_another_number_tells_no_runs_apart(tmp_path: Path) -> None:
    arms = [a_run(tmp_path / f"igpo-{seed}", seed=seed) for seed in (12, 30)]  # 12 steps, 30 of SFT
    assert len(families(read_arms(arms))) == 1


def test_several_seeds_have_means_and_standard_errors(seeds: list[Path]) -> None:
    words = spaces(read(page(read_arms(seeds))).words)
    best, other = mean([0.25, 0.5, 0.375]), mean([0.0625, 0.125])
    assert best is not None
    assert other is not None
    assert (best.value, best.error) == pytest.approx((0.375, 0.125 / math.sqrt(3)))
    assert "igpo ends highest on heldout: 0.38 \u00b1 0.07 against 0.09 \u00b1 0.03 of grpo (3 and 2 seeds)" in words
    error = math.hypot(best.error or 0, other.error or 0)
    assert f"a difference of +0.28 \u00b1 {error:.2f} (standard error)" in words
    assert "accuracy on heldout 0.06 \u2192 0.38 \u00b1 0.07 (mean \u00b1 standard error of 3 seeds)" in words


def test_arms_within_two_standard_errors_are_not_ranked(tmp_path: Path) -> None:
    arms = [a_run(tmp_path / f"one-{seed}", seed=seed, end=end) for seed, end in ((1, 0.1), (2, 0.5))]
    arms += [a_run(tmp_path / f"two-{seed}", seed=seed, end=end, planned=24) for seed, end in ((1, 0.2), (2, 0.3))]
    words = read(page(read_arms(arms))).words
    assert "On heldout one and two cannot be told apart" in words


def test_curves_of_seeds_are_means_with_every_seed_behind(seeds: list[Path]) -> None:
    text = page(read_arms(seeds[:3]))
    found = read(text)
    (accuracy,) = [line for line in found.of("polyline", "curve") if line["data-p"] == "0:0.0625 12:0.375"]
    assert accuracy["data-label"] == "igpo"
    figure = next(part for part in re.findall(r"<figure.*?</figure>", text, flags=re.DOTALL) if "Accuracy on" in part)
    assert figure.count('class="raw a0"') == 3


# Colours --------------------------------------------------------------------------------------------------------------


def luminance(colour: tuple[float, ...]) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (each / 255 for each in colour)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """WCAG 2.2."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_text_can_be_read_in_both_themes(theme: int) -> None:
    style = (Path(command.__file__).parents[1] / "report" / "style.css").read_text()
    table = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)[theme]
    colours: dict[str, tuple[float, ...]] = {}
    for name, value in re.findall(r"--([\w-]+): ([^;]+);", table):
        digits = value.removeprefix("#")
        if "," in value:
            colours[name] = tuple(map(float, value.split(",")))
        else:
            whole = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
            colours[name] = tuple(int(whole[at : at + 2], 16) for at in (0, 2, 4))
    for text in ("ink", "soft", "good", "warn", "bad", "note"):
        assert contrast(colours[text], colours["card"]) >= 4.5, text
        assert contrast(colours[text], colours["page"]) >= 4.5, text
    assert contrast(colours["hint"], colours["hint-back"]) >= 4.5
    assert contrast(colours["page"], colours["ink"]) >= 4.5  # pressed buttons and tips
    for line in ("c0", "c1", "c2", "c3", "c4", "c5", "edge"):  # graphics: 3
        assert contrast(colours[line], colours["card"]) >= 3, line
    for tint, most in (("order", 0.56), ("doubt", 0.6)):  # the strongest tint of script.js, under text
        mixed = tuple(most * a + (1 - most) * b for a, b in zip(colours[tint], colours["card"], strict=True))
        assert contrast(colours["ink"], mixed) >= 4.5, tint


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    command.register(app)
    return app


def test_the_report_of_one_run_lies_in_its_folder(tmp_path: Path, app: typer.Typer) -> None:
    run = a_run(tmp_path / "igpo")
    result = CliRunner().invoke(app, ["report", str(run)])
    assert result.exit_code == 0, result.output
    assert str(run / "report.html") in result.output
    assert (run / "report.html").read_text(encoding="utf-8") == page(read_arms([run]))
    assert not list(run.glob("*.new"))


def test_the_report_of_several_runs_needs_a_place(arms: list[Path], app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", *map(str, arms)])
    assert isinstance(result.exception, UsageError)
    assert "--out" in str(result.exception)
    out = tmp_path / "new" / "all.html"
    assert CliRunner().invoke(app, ["report", *map(str, arms), "--out", str(out)]).exit_code == 0
    assert out.is_file()


def broken_folders(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    yield tmp_path / "absent", "there is no run"
    (tmp_path / "empty").mkdir()
    yield tmp_path / "empty", "so it is no run"
    toml = a_run(tmp_path / "toml")
    (toml / "run.toml").write_text("steps = = 3")
    yield toml, "run.toml is not valid TOML"
    edited = a_run(tmp_path / "edited")
    (edited / "metrics.jsonl").write_text("{\n{}\n")
    yield edited, "metrics.jsonl, line 1 is not a JSON object"


def test_a_folder_that_is_no_run_is_named(tmp_path: Path, app: typer.Typer) -> None:
    for folder, words in broken_folders(tmp_path):
        result = CliRunner().invoke(app, ["report", str(folder)])
        assert isinstance(result.exception, UsageError)
        assert str(folder) in str(result.exception)
        assert words in str(result.exception)
        assert not (folder / "report.html").exists()


def test_a_run_given_twice_is_refused(tmp_path: Path) -> None:
    run = a_run(tmp_path / "igpo")
    with pytest.raises(ValueError, match="was given twice"):
        write_report([run, run], tmp_path / "out.html")


def test_a_report_imports_no_torch(tmp_path: Path) -> None:
    run = a_run(tmp_path / "igpo")
    code = (
        "import sys; from pathlib import Path; from igpo_cli.report import write_report; "
        f"write_report([Path({str(run)!r})], Path({str(tmp_path / 'x.html')!r})); assert 'torch._C' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# The browser ----------------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
PROBE = ["--enable-logging=stderr", "--allow-file-access-from-files", "--window-size=1400,1000", "--dump-dom"]


ACT = """
onload = () => {
  const d = f.contentDocument, e = d.documentElement, w = f.contentWindow, seen = {};
  const all = (what) => d.querySelectorAll(what), set = (node, value, kind) => {
    node.value = value; node.dispatchEvent(new w.Event(kind));
  };
  const later = () => all("article:first-of-type .row:first-of-type .later").length;
  seen.wide = e.scrollWidth;
  seen.groups = all("article").length;
  seen.tinted = all(".tokens [data-s][style]").length;
  seen.images = d.images.length;
  seen.hint = w.getComputedStyle(d.querySelector(".hint")).backgroundColor;
  seen.done = later();
  const slider = d.querySelector("input[type=range]");
  set(slider, 1, "input");
  seen.one = later();
  seen.says = d.querySelector(".stepper output").textContent;
  set(slider, 0, "input");
  seen.zero = later();
  d.querySelector("[data-kind=hinted]").click();
  seen.hinted = [...all(".row")].every((row) => row.querySelector(".verdict .hinted"));
  seen.rows = all(".row").length;
  d.querySelector("[data-kind=all]").click();
  set(d.querySelector("input[type=search]"), "train-12", "input");
  seen.found = d.querySelector(".found output").textContent;
  set(d.querySelector("input[type=search]"), "no such text", "input");
  seen.none = all("article").length;
  set(d.querySelector("input[type=search]"), "", "input");
  const box = d.querySelector("svg[data-x]").getBoundingClientRect();
  d.querySelector("svg[data-x]").dispatchEvent(
    new w.PointerEvent("pointermove", { clientX: box.left + box.width / 2, clientY: box.top + 9 }));
  seen.tip = d.querySelector(".tip").textContent;
  const key = (name) => d.querySelector("svg[data-x]").dispatchEvent(new w.KeyboardEvent("keydown", { key: name }));
  key("End");
  seen.end = d.querySelector(".tip").firstChild.textContent;
  key("ArrowLeft");
  seen.before = d.querySelector(".tip").firstChild.textContent;
  seen.wideAfter = e.scrollWidth;
  document.title = JSON.stringify(seen);
}
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_works_in_a_browser(arms: list[Path], tmp_path: Path, width: int) -> None:
    """The script runs under the page's own policy, nothing hostile does, and nothing is wider than the screen."""
    out = write_report([*arms, hostile_run(tmp_path / "deep")], tmp_path / "report.html")
    probe = tmp_path / "probe.html"
    frame = f"<iframe id=f src='{out.name}' style='width:{width}px;height:900px;border:0'></iframe>"
    probe.write_text(f"<!doctype html>{frame}<script>{ACT}</script>")
    done = subprocess.run(
        [str(CHROMIUM), *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *PROBE, probe.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]
    title = re.search("<title>(.*?)</title>", done.stdout)
    assert title is not None, done.stderr[-2000:]
    seen = json.loads(html.unescape(title.group(1)))
    assert seen["wide"] <= width
    assert seen["wideAfter"] <= width
    assert seen["groups"] == 4
    assert seen["tinted"] > 0
    assert seen["images"] == 0
    assert seen["hint"] != "rgba(0, 0, 0, 0)"
    # The row with a hint: steps 2, given, 1, 1 from 0 on, so none of its three own tokens stands at step 1.
    assert (seen["done"], seen["one"], seen["zero"]) == (0, 3, 3)
    assert seen["says"] == "step 1 of 3"
    assert seen["hinted"]
    assert seen["rows"] == 4
    assert seen["found"] == "6 rollouts in 3 groups"
    assert seen["none"] == 0
    assert seen["tip"].startswith("step ")
    assert (seen["end"], seen["before"]) == ("step 12", "step 11")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_an_error_of_the_script_would_be_seen(tmp_path: Path) -> None:
    faulty = tmp_path / "faulty.html"
    faulty.write_text("<script>nothing.here()</script><script>console.error('spoken')</script>")
    done = subprocess.run(
        [str(CHROMIUM), *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *PROBE, faulty.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stderr.count("CONSOLE") == 2
