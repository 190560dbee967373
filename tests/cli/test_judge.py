"""What a plug-in breaks costs as little as possible, and has a name on it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from attrs import frozen

from igpo_cli.judge import Judge
from igpo_cli.main import run
from igpo_data import Task, Verdict

FAULTY = Path(__file__).parent / "plugin_faulty.py"


@frozen
class Dividing:
    """The reward is 12 / text; one call for all rows."""

    def many(self, pairs):
        return [Verdict(reward=12 / int(text), correct=True) for text, _ in pairs]


def pairs(*texts):
    return [(text, Task(key=f"k{text}", prompt="", answer="")) for text in texts]


def test_a_row_that_raises_is_wrong_and_unverifiable_and_the_others_are_judged():
    said: list[str] = []
    judge = Judge(Dividing(), said.append)
    verdicts = judge.many(pairs("1", "2", "0", "4", "x", "6", "0"))
    assert [verdict.reward for verdict in verdicts] == [12, 6, 0, 3, 0, 2, 0]
    assert [verdict.note for verdict in verdicts] == ["", "", "unverifiable", "", "unverifiable", "", "unverifiable"]
    assert [verdict.correct for verdict in verdicts] == [True, True, False, True, False, True, False]
    assert judge.many(pairs("0", "0"))[0].note == "unverifiable"  # it worked before
    assert said[0] == (
        "verifier Dividing (test_judge) raised ZeroDivisionError: division by zero (problem 'k0'). Such rows count as "
        "wrong, and their groups get no hints"
    )
    assert len(said) == 2
    assert judge.account() == "verifier Dividing (test_judge) raised ZeroDivisionError 4 times, ValueError 1 times"
    assert judge.many([]) == []
    assert Judge(Dividing()).account() is None


def test_a_verifier_that_never_worked_stops_the_run():
    with pytest.raises(ZeroDivisionError, match=r"division by zero\nverifier Dividing \(test_judge\)"):
        Judge(Dividing(), lambda text: None).many(pairs(*"0" * 64))
    assert len(Judge(Dividing(), lambda text: None).many(pairs(*"0" * 63))) == 63


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(0.5, "TypeError: it returned float"), (Verdict(reward=float("nan"), correct=True), "ValueError")],
)
def test_what_is_no_verdict_counts_as_raised(answer, kind):
    said: list[str] = []
    judge = Judge(lambda text, task: answer if text else Verdict(reward=1.0, correct=True), said.append)
    assert [verdict.note for verdict in judge.many(pairs("", "a"))] == ["", "unverifiable"]
    assert kind in said[0]


# Through training ------------------------------------------------------------------------------------------------------


def train(folder, name, *more):
    return run(
        [
            *("train", "--plugin", str(FAULTY), "--folder", str(folder), "--name", name, "--trackers", ""),
            *("--sft.steps", "0", "--steps", "2", "--prompts", "3", "--group", "4", "--updates", "1"),
            *("--sampler.steps", "5", "--task.train-problems", "12", "--eval.heldout.limit", "4"),
            *("--eval.common.limit", "4", "--rollouts-every", "1", *more),
        ]
    )


def steps(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [{key: value for key, value in row.items() if not key.startswith("time")} for row in rows]
    return [row for row in rows if "stuck/before" in row]


def test_training_goes_on_where_a_verifier_trips(tmp_path):
    assert train(tmp_path, "moody", "--verifier", "moody", "--group", "2", "--prompts", "12") == 0
    log = (tmp_path / "moody" / "log.txt").read_text()
    assert log.count("(problem 'lists/train/") == log.count("(plugin_faulty) raised ZeroDivisionError: ") + 1 == 2
    assert log.count("Moody (plugin_faulty) raised ValueError: it returned reward = nan") >= 1
    assert re.search(r"Moody \(plugin_faulty\) raised \w+ \d+ times, \w+ \d+ times", log)
    for step in (1, 2):
        rows = [json.loads(line) for line in (tmp_path / f"moody/rollouts/step-{step}.jsonl").read_text().splitlines()]
        tripped = {row["group"] for row in rows if row["note"] == "unverifiable"}
        assert tripped
        assert not any(row["hinted"] or row["stuck"] for row in rows if row["group"] in tripped)
        assert not any(row["correct"] or row["reward"] for row in rows if row["note"] == "unverifiable")
    assert all(0 < row["verdict/unverifiable"] < 1 for row in steps(tmp_path / "moody"))


def test_dead_workers_are_replaced_during_training(tmp_path):
    assert train(tmp_path, "alive", "--verifier", "murdered", "--steps", "1") == 0
    assert train(tmp_path, "dead", "--verifier", "murdered", "--steps", "1", "--verifier.kill") == 0
    assert steps(tmp_path / "dead") == steps(tmp_path / "alive")
    assert all(0 < row["correct/mean"] < 1 for row in steps(tmp_path / "alive"))


def test_a_plug_in_at_fault_is_named(tmp_path, capsys):
    assert train(tmp_path, "broken", "--chunker", "broken") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "error: chunker Broken (plugin_faulty" in said
    assert "raised LookupError: no such chunk. -v shows where." in said
    assert train(tmp_path, "never", "--verifier", "moody", "--verifier.always", "--group", "32") == 1
    assert "verifier Moody (plugin_faulty" in " ".join(capsys.readouterr().err.split())
