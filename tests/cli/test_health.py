from __future__ import annotations

import math

import pytest

from igpo_cli.health import History, Watch, signs, trend

SOUND = {
    "reward/mean": 0.3,
    "correct/mean": 0.3,
    "correct/pass@8": 0.6,
    "policy/kl": 0.1,
    "policy/ratio_max": 3.0,
    "policy/clip": 0.02,
    "policy/entropy": 0.5,
    "sample/eos": 1.0,
    "gradient/own": 0.3,
    "gradient/hint": 0.1,
    "correct/derived": 1.0,
    "hint/answer_leak": 0.0,
}


def wobble(step: int) -> float:
    return 0.02 * (step % 3 - 1)


def a_history(ends: dict[str, tuple[float, float]] | None = None, steps: int = 30, **constant: float) -> History:
    """A sound run in which these metrics go straight from one value to another, with some noise."""
    history = History()
    for step in range(1, steps + 1):
        part = (step - 1) / (steps - 1)
        moving = {name: a + (b - a) * part + wobble(step) for name, (a, b) in (ends or {}).items()}
        history.add("igpo", step, SOUND | {name.replace("__", "/"): value for name, value in constant.items()} | moving)
    return history


def kinds(history: History) -> list[str]:
    return [finding.kind for finding in signs(history)]


def test_a_sound_run_shows_no_sign() -> None:
    assert kinds(a_history()) == []
    assert kinds(a_history({"reward/mean": (0.2, 0.6), "correct/mean": (0.2, 0.6), "correct/pass@8": (0.5, 0.8)})) == []


def test_mode_collapse_is_pass_at_k_that_falls_while_pass_at_1_does_not() -> None:
    (finding,) = signs(a_history({"correct/pass@8": (0.8, 0.5), "correct/mean": (0.3, 0.5), "reward/mean": (0.3, 0.5)}))
    assert finding.kind == "collapse"
    assert "pass@8 fell from 0.78 to 0.52 while pass@1 went from 0.3" in finding.text
    assert "collapse" not in kinds(a_history({"correct/pass@8": (0.8, 0.3), "correct/mean": (0.6, 0.1)}))  # both fell


def test_a_fall_within_the_noise_is_no_collapse() -> None:
    history = History()
    for step in range(1, 31):
        history.add("igpo", step, SOUND | {"correct/pass@8": (0.9, 0.3)[step % 2] - step / 300})
    assert kinds(history) == []


def test_reward_that_leaves_held_out_accuracy_behind_is_suspected() -> None:
    def history(first: float, last: float) -> History:
        found = a_history({"reward/mean": (0.2, 0.6), "correct/mean": (0.2, 0.6)})
        for step, value in ((0, first), (30, last)):
            found.add("igpo", step, {"eval/heldout/pass@1": value, "eval/heldout/high": value + 0.04})
        return found

    assert kinds(history(0.3, 0.32)) == ["hacking"]
    assert kinds(history(0.3, 0.55)) == []
    assert kinds(history(0.99, 0.99)) == []  # nothing left to gain


def test_reward_that_rises_while_fewer_rows_are_correct_is_suspected() -> None:
    (finding,) = signs(a_history({"reward/mean": (0.2, 0.6), "correct/mean": (0.4, 0.2)}))
    assert "while correct rows fell" in finding.text


@pytest.mark.parametrize(
    ("metric", "value", "kind"),
    [
        ("hint__answer_leak", 1.0, "leak"),
        ("sample__eos", 0.5, "ends"),
        ("policy__kl", 1.5, "kl"),
        ("policy__ratio_max", 200.0, "ratio"),
        ("policy__clip", 0.4, "clip"),
        ("correct__derived", 0.5, "derived"),
        ("gradient__hint", 0.4, "hints"),
        ("verdict__timeout", 0.1, "timeout"),
        ("verdict__unverifiable", 0.1, "unverifiable"),
    ],
)
def test_each_sign_has_its_cause(metric: str, value: float, kind: str) -> None:
    assert kinds(a_history(**{metric: value})) == [kind]


def test_entropy_that_vanishes_or_explodes_is_seen() -> None:
    assert kinds(a_history({"policy/entropy_own": (1.0, 0.0)}, steps=60)) == ["entropy"]
    assert kinds(a_history({"policy/entropy_own": (0.2, 2.0)}, steps=60)) == ["entropy"]


def test_a_spike_that_was_survived_reads_differently() -> None:
    history = a_history()
    history.add("igpo", 31, SOUND | {"policy/kl": 4.0})
    assert "went far away" in next(signs(history)).text
    for step in range(32, 40):
        history.add("igpo", step, SOUND)
    assert "at step 31: some updates went far, but the policy came back" in next(signs(history)).text


def test_a_trend_needs_ten_steps_and_more_than_noise() -> None:
    assert trend([0.0] * 9) is None
    found = trend([0.0, 0.1] * 5 + [0.5, 0.6] * 5)
    assert found is not None
    assert (found.first, found.last) == pytest.approx((0.04, 0.56))
    assert found.clear
    assert not trend([0.0, 1.0] * 10).clear  # type: ignore[union-attr]


def test_a_running_run_is_told_once() -> None:
    watch = Watch()
    told = [watch.hear(step, "igpo", SOUND | {"policy/kl": 2.0, "policy/loss": math.nan}) for step in (1, 2, 3)]
    assert [len(texts) for texts in told] == [1, 0, 0]
    assert watch.hear(4, "igpo", SOUND | {"policy/ratio_max": 1e4})[0].startswith("a likelihood ratio reached 1e+04")


def test_a_run_that_goes_on_is_not_told_again() -> None:
    rows = [{"phase": "igpo", "step": step, **SOUND, "policy/kl": 2.0, "policy/loss": None} for step in (1, 2)]
    watch = Watch()
    watch.recall(rows)
    assert watch.hear(3, "igpo", SOUND | {"policy/kl": 2.0}) == []
    assert watch.hear(4, "igpo", SOUND | {"policy/ratio_max": 1e4})[0].startswith("a likelihood ratio reached 1e+04")
