from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from igpo_cli.pieces import decoder, pieces, visible
from igpo_cli.tracking import (
    Tracker,
    line,
    read_lines,
    read_metrics,
    read_rollouts,
    rollout_files,
    rollout_rows,
    scores,
)
from igpo_data import Task
from igpo_rl.records import Rollouts
from igpo_sampling import Tiny


def steps(folder: Path) -> list[tuple[str, int]]:
    return [(row["phase"], row["step"]) for row in read_metrics(folder)]


def a_row(step: int, **values: object) -> dict[str, object]:
    return {"tokens": ["a", " b"], "hint": [1, 0], "order": [-1, 0], "end": 2, "hinted": True, "step": step} | values


def test_metrics_come_back_as_they_were_written(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    tracker.log(1, "sft", {"sft/loss": 1 / 3})
    tracker.log(1, "igpo", {"stuck/before": 0.5, "policy/kl": 1e-9})
    first, second = read_metrics(tmp_path)
    assert first["sft/loss"] == 1 / 3
    assert second | {"time": 0} == {"phase": "igpo", "step": 1, "time": 0, "stuck/before": 0.5, "policy/kl": 1e-9}
    assert 0 <= first["time"] <= second["time"]


def test_every_line_is_valid_json_even_where_a_number_is_not_finite(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    tracker.log(3, "igpo", {"policy/loss": float("nan"), "optimizer/grad_norm": float("inf"), "reward/mean": 0.25})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    (text,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    row = json.loads(text, parse_constant=refuse)
    assert row["policy/loss"] is None
    assert row["optimizer/grad_norm"] is None
    assert row["reward/mean"] == 0.25


def test_an_unknown_phase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="phase 'rl' is none of sft, igpo"):
        Tracker(tmp_path).log(1, "rl", {})


def test_cut_drops_what_follows_the_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    for step in (1, 2, 3):
        tracker.log(step, "sft", {"sft/loss": 1.0})
    tracker.log(0, "igpo", {"eval/heldout/pass@1": 0.1})
    for step in (1, 2, 3):
        tracker.log(step, "igpo", {"reward/mean": 0.1})
        tracker.rollouts(step, [a_row(step)])
    (tmp_path / "rollouts" / "notes.txt").write_text("mine")
    kept = [row["time"] for row in read_metrics(tmp_path)]

    Tracker(tmp_path).cut("igpo", 2)
    assert steps(tmp_path) == [("sft", 1), ("sft", 2), ("sft", 3), ("igpo", 0), ("igpo", 1), ("igpo", 2)]
    assert [row["time"] for row in read_metrics(tmp_path)] == kept[:-1]
    assert list(rollout_files(tmp_path)) == [1, 2]

    # Step 2 of IGPO comes after step 3 of SFT: comparing steps alone would keep it.
    assert [row for row in steps(tmp_path) if row[1] <= 3] == steps(tmp_path)
    Tracker(tmp_path).cut("sft", 3)
    assert steps(tmp_path) == [("sft", 1), ("sft", 2), ("sft", 3)]
    assert rollout_files(tmp_path) == {}
    assert (tmp_path / "rollouts" / "notes.txt").read_text() == "mine"


def test_a_cut_and_repeated_run_equals_a_straight_one(tmp_path: Path) -> None:
    def play(folder: Path, first: int, last: int) -> Tracker:
        folder.mkdir(exist_ok=True)
        tracker = Tracker(folder)
        for step in range(first, last + 1):
            tracker.log(step, "igpo", {"reward/mean": step / 7})
        return tracker

    play(tmp_path / "straight", 1, 6)
    play(tmp_path / "broken", 1, 5)
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "igpo", "st')  # killed while writing step 6
    Tracker(tmp_path / "broken").cut("igpo", 3)
    play(tmp_path / "broken", 4, 6)
    rows = [[row | {"time": 0} for row in read_metrics(tmp_path / name)] for name in ("straight", "broken")]
    assert rows[0] == rows[1]


def test_time_goes_on_after_a_resumption(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"phase": "igpo", "step": 1, "time": 1000.0}\n')
    tracker = Tracker(tmp_path)
    tracker.log(2, "igpo", {})
    assert 1000 <= read_metrics(tmp_path)[1]["time"] < 1100


def test_a_truncated_last_line_is_left_out_and_a_broken_one_before_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n{"b": 2}\n{"c":')
    assert read_lines(path) == [{"a": 1}, {"b": 2}]
    path.write_text('{"a": 1}\n{"b":\n{"c": 3}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2 is not a JSON object"):
        read_lines(path)
    assert read_lines(tmp_path / "absent.jsonl") == []


@given(st.text(alphabet=st.characters(codec=None)))
def test_any_text_survives_the_rollout_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("run")
    Tracker(folder).rollouts(7, [a_row(7, prompt=text), a_row(7)])
    rows = read_rollouts(folder, 7)
    assert [row.get("prompt") for row in rows] == [text, None]


def test_line_separators_inside_text_do_not_end_a_line(tmp_path: Path) -> None:
    Tracker(tmp_path).rollouts(1, [a_row(1, prompt="one\u2028two\x85three")])
    raw = (tmp_path / "rollouts" / "step-1.jsonl").read_text(encoding="utf-8")
    assert len(raw.splitlines()) > 1  # the faulty way to read it
    assert read_rollouts(tmp_path, 1)[0]["prompt"] == "one\u2028two\x85three"


class Listener:
    """Trackers as far as tracking is concerned."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, dict[str, float]]] = []

    def log(self, values: dict[str, float], step: int, seen: dict[str, float]) -> None:
        self.heard.append((step, values))


def test_numbers_are_forwarded_and_the_phases_do_not_collide(tmp_path: Path) -> None:
    trackers = Listener()
    tracker = Tracker(tmp_path, trackers=trackers)
    tracker.log(1, "sft", {"sft/loss": 2.0, "optimizer/lr": 0.1})
    tracker.log(1, "igpo", {"optimizer/lr": 0.2, "policy/loss": float("nan")})
    assert trackers.heard == [(1, {"sft/loss": 2.0, "sft/optimizer/lr": 0.1}), (1, {"optimizer/lr": 0.2})]


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, writes=False)
    tracker.log(1, "igpo", {"reward/mean": 1.0})
    tracker.message("hello")
    tracker.rollouts(1, [a_row(1)])
    tracker.cut("igpo", 0)
    assert list(tmp_path.iterdir()) == []


def test_log_txt_says_what_was_measured_and_cannot_control_a_terminal(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, totals={"igpo": 60})
    tracker.message("reading \x1b[31mtasks")
    tracker.log(9, "igpo", {"stuck/before": 0.875, "stuck/after": 0.5, "reward/mean": 0.125})
    first, second = (tmp_path / "log.txt").read_text().splitlines()
    assert first.endswith("reading ␛[31mtasks")
    assert second.endswith("igpo  9/60  stuck 0.88 -> 0.50  reward 0.125")


def test_a_line_leaves_out_what_was_not_measured() -> None:
    assert line("sft", 5, 600, {"sft/loss": 1.25}) == "sft    5/600  loss 1.250"
    assert line("igpo", 5, 0, {}) == "igpo 5"


def test_scores_are_read_from_their_names() -> None:
    metrics = {
        "eval/heldout/pass@1": 0.25,
        "eval/heldout/low": 0.2,
        "eval/heldout/high": 0.3,
        "eval/heldout/problems": 512.0,
        "eval/common/pass@1": 1.0,
        "eval/broken/low": 0.1,
        "reward/mean": 0.5,
    }
    heldout, common = scores(metrics)
    assert (heldout.name, heldout.value, heldout.low, heldout.high, heldout.problems) == (
        "heldout",
        0.25,
        0.2,
        0.3,
        512,
    )
    assert str(heldout) == "heldout pass@1 0.250 [0.200, 0.300] of 512"
    assert str(common) == "common pass@1 1.000"


# Rows -----------------------------------------------------------------------------------------------------------------


def a_batch() -> Rollouts:
    """Two groups of two: one stuck and rescued by a spliced row, one that was never stuck."""
    return Rollouts(
        prompt=torch.tensor([[0, 97], [0, 97], [98, 99], [98, 99]]),
        prompt_valid=torch.tensor([[False, True], [False, True], [True, True], [True, True]]),
        completion=torch.tensor([[65, 66, 67], [65, 68, 67], [69, 70, 71], [69, 70, 72]]),
        given=torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]).bool(),
        valid=torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 0, 0]]).bool(),
        order=torch.tensor([[0, 1, 2], [0, -1, 1], [2, 1, 0], [0, 1, 2]]),
        confidence=torch.tensor([[0.5, float("nan"), 1.0]] * 4),
        reward=torch.tensor([0.0, 1.0, 1.0, 0.0]),
        correct=torch.tensor([False, True, True, False]),
        verifiable=torch.ones(4).bool(),
        group=torch.tensor([0, 0, 1, 1]),
        forwards=torch.tensor([3, 2, 3, 3]),
        keys=("p", "p", "q", "q"),
        notes=("no-answer", "", "", ""),
        answers=(None, "C", "Y", "X"),
        derived=torch.tensor([torch.nan, 1.0, 0.0, torch.nan]),
        advantage=torch.tensor([-0.5, 0.5, 0.5, -0.5]),
        hinted=torch.tensor([False, True, False, False]),
        stuck=torch.tensor([True, True, False, False]),
    )


def ascii_text(ids: list[int]) -> str:
    return "".join(map(chr, ids))


def test_rollout_rows_tell_the_story_of_a_group() -> None:
    first, second, third, fourth = rollout_rows(
        a_batch(), step=4, decode=ascii_text, tasks={"p": Task(key="p", prompt="a", answer="D", trace="AD")}
    )
    assert (first["prompt"], first["trace"], first["tokens"], first["end"]) == ("a", "AD", ["A", "B", "C"], 2)
    assert (third["prompt"], third["trace"]) == ("bc", None)
    assert [row["stuck"] for row in (first, second, third, fourth)] == [True, True, False, False]
    assert (second["hint"], second["order"], second["hinted"], second["advantage"]) == (
        [0, 1, 0],
        [0, -1, 1],
        True,
        0.5,
    )
    assert first["confidence"] == [0.5, None, 1.0]
    assert [row["expected"] for row in (first, third)] == ["D", None]
    assert [row["answer"] for row in (first, second, fourth)] == [None, "C", "X"]
    assert [row["derived"] for row in (first, second)] == [None, 1.0]
    assert (first["note"], first["row"], fourth["group"], fourth["row"]) == ("no-answer", 0, 1, 1)


def test_a_limit_keeps_whole_groups() -> None:
    for limit, kept in ((1, 2), (2, 2), (3, 2), (4, 4), (None, 4)):
        assert len(rollout_rows(a_batch(), step=1, decode=ascii_text, tasks={}, limit=limit)) == kept


def test_rollout_rows_can_be_written_and_read(tmp_path: Path) -> None:
    rows = rollout_rows(a_batch(), step=4, decode=ascii_text, tasks={})
    Tracker(tmp_path).rollouts(4, rows)
    assert read_rollouts(tmp_path, 4) == rows


# Pieces ---------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=30))
def test_pieces_of_bytes_join_to_the_text_and_split_no_character(text: str) -> None:
    def decode(ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", errors="replace")

    found = pieces(decode, list(text.encode()))
    assert "".join(found) == text
    assert len(found) == len(text.encode())
    assert [piece for piece in found if piece] == list(text)


@given(st.lists(st.integers(0, 255), max_size=24))
def test_pieces_of_any_bytes_stay_one_a_token(ids: list[int]) -> None:
    assert len(pieces(lambda part: bytes(part).decode("utf-8", errors="replace"), ids)) == len(ids)


def test_pieces_of_the_tokenizers_that_are_built_here() -> None:
    words = Tiny(width=4, heads=1, layers=1)(vocabulary=["rev", "a"]).tokenizer
    ids = [*words("a rev")["input_ids"], words.mask_token_id, words.eos_token_id]
    assert pieces(decoder(words), ids) == ["a", " rev", " <mask>", " <eos>"]
    utf8 = Tiny(width=4, heads=1, layers=1)().tokenizer
    ids = [*utf8("né .")["input_ids"], utf8.eos_token_id]
    assert pieces(decoder(utf8), ids) == ["n", "", "é", " ", ".", "<eos>"]


def test_pieces_of_words_keep_the_space_before_them() -> None:
    words = ["rev", "a", "b", "<eos>"]
    assert pieces(lambda ids: " ".join(words[index] for index in ids), [0, 2, 1, 3]) == ["rev", " b", " a", " <eos>"]


@given(st.text(alphabet=st.characters(codec=None)))
def test_visible_text_holds_nothing_that_controls(text: str) -> None:
    shown = visible(text)
    assert not set(shown) & {
        chr(code) for code in [*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F)]
    }
    shown.encode("utf-8")
    assert len(shown) == len(text)
