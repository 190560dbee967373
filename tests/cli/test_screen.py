from __future__ import annotations

import io
import re
import time

import pytest
import torch
from rich.console import Console

from igpo_cli.pieces import decoder
from igpo_cli.screen import FRAMES, LINES, SPARKS, Screen, clock, marked, peak_memory, watch
from igpo_sampling import Canvas, LLaDASampler, Tiny

IGPO = {
    "stuck/before": 0.875,
    "stuck/after": 0.5,
    "stuck/rescued": 0.43,
    "reward/mean": 0.125,
    "policy/kl": 0.0021,
    "policy/entropy": 0.5,
    "policy/entropy_hint": 1.5,
    "sample/forwards": 13.0,
}


def pipe() -> Console:
    return Console(file=io.StringIO(), width=200)


def terminal(width: int = 100, **options: object) -> Console:
    return Console(file=io.StringIO(), width=width, height=40, force_terminal=True, legacy_windows=False, **options)  # type: ignore[arg-type]


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def drawn(screen: Screen, width: int = 100, *, encoding: str = "utf-8") -> str:
    """The live part as plain text, at this width."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    console = Console(file=file, width=width, height=40)
    console.print(screen)
    file.flush()
    assert isinstance(file.buffer, io.BytesIO)
    return file.buffer.getvalue().decode(encoding)


def test_a_pipe_gets_one_plain_line_a_step() -> None:
    console = pipe()
    with Screen(3, console) as screen:
        for step in (1, 2, 3):
            screen.step("igpo", step, 3, IGPO)
            screen.sample(["a"], [1])
    lines = written(console).splitlines()
    assert len(lines) == 3
    assert lines[0] == "igpo 1/3  stuck 0.88 -> 0.50  rescued 0.43  reward 0.125  entropy 0.500  kl 0.0021"
    assert "\x1b" not in written(console)


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    console = terminal()
    with Screen(2, console) as screen:
        screen.step("igpo", 1, 2, IGPO)
    assert written(console).startswith("igpo 1/2  stuck 0.88")
    assert "\x1b[?25l" not in written(console)


def test_a_pipe_gets_some_lines_of_sft_and_every_evaluation() -> None:
    console = pipe()
    with Screen(600, console) as screen:
        for step in range(1, 601):
            screen.step("sft", step, 600, {"sft/loss": 1.0})
        screen.step("sft", 333, 600, {"eval/heldout/pass@1": 0.25, "eval/heldout/low": 0.2, "eval/heldout/high": 0.3})
    lines = written(console).splitlines()
    assert len(lines) == 22  # 1, 30, 60, ..., 600 and the evaluation
    assert lines[-1] == "sft  333/600  heldout pass@1 0.250 [0.200, 0.300]"


def test_lines_on_a_pipe_are_not_broken_at_its_width() -> None:
    console = Console(file=io.StringIO(), width=20)
    with Screen(1, console) as screen:
        screen.step("igpo", 1, 1, IGPO)
        screen.message("a message that is far longer than that")
    assert len(written(console).splitlines()) == 2


def test_messages_on_a_terminal_are_broken_between_words() -> None:
    console = terminal(width=20)
    with Screen(1, console) as screen:
        screen.message("a message that is far longer than that")
    assert re.search(r"a message that is +\r?\n.*far longer than that", written(console))


def test_the_live_screen_shows_what_was_measured() -> None:
    screen = Screen(660, terminal())
    screen.step("sft", 600, 600, {"sft/loss": 0.04, "sft/accuracy": 0.99})
    assert "0.040" in drawn(screen)
    for step in (1, 2):
        screen.step("igpo", step, 60, IGPO | {"reward/mean": 0.125 * step})
    screen.step("igpo", 2, 60, {"eval/heldout/pass@1": 0.25, "eval/heldout/low": 0.2, "eval/heldout/high": 0.3})
    screen.sample(["rev", " a", " b"], [0, 1, 0])
    text = drawn(screen)
    for part in (
        "600/600",
        "done",
        "2/60",
        "0.88 → 0.50",
        "rescued 0.43",
        "0.250",
        "hints 1.500",
        "13 forwards",
        "last rollout, hints",
        "rev a b",
    ):
        assert part in text
    screen.sample(["rev", " a", " b"], [0, 0, 0])
    assert "last rollout\n" in re.sub(r" +\n", "\n", drawn(screen))
    assert re.search(r"heldout .*0\.250  0\.200 to 0\.300  step 2", text)
    assert SPARKS[-1] in text
    assert "loss" not in text  # SFT's figures are not IGPO's
    assert "gradient" not in text  # never measured


def test_a_step_without_stuck_groups_shows_no_old_rescue() -> None:
    screen = Screen(2, terminal())
    screen.step("igpo", 1, 2, IGPO)
    assert "rescued" in drawn(screen)
    screen.step("igpo", 2, 2, {"stuck/before": 0.0, "stuck/after": 0.0})
    assert "rescued" not in drawn(screen)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    screen = Screen(60, terminal())
    for step in range(1, 50):
        screen.step("igpo", step, 60, IGPO | {"optimizer/grad_norm": float(step)})
    screen.sample([" word"] * 200, [0] * 200)
    lines = drawn(screen, width).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= 40


def test_a_terminal_without_unicode_gets_ascii() -> None:
    screen = Screen(60, terminal())
    for step in (1, 2):
        screen.step("igpo", step, 60, IGPO)
    assert "0.88 -> 0.50" in drawn(screen, encoding="ascii")
    assert "?" not in drawn(screen, encoding="ascii")


def test_a_character_that_standard_output_cannot_show_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    strict = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    with pytest.raises(UnicodeEncodeError):
        Console(file=strict).print("é")
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr("sys.stdout", stdout)
    Screen(1).message("é")
    stdout.flush()
    assert stdout.buffer.getvalue() == b"?\n"  # type: ignore[attr-defined]


def test_no_color_keeps_hints_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, colour = [], []
    for found, no_color in ((colour, False), (plain, True)):
        console = terminal(color_system="standard", no_color=no_color)
        console.print(marked(["one", " two"], [0, 1]))
        found += [int(code) for codes in re.findall(r"\x1b\[([\d;]+)m", written(console)) for code in codes.split(";")]
    assert any(30 <= code <= 37 for code in colour)
    assert not any(30 <= code <= 37 for code in plain)
    assert 4 in plain  # underlined


def test_model_text_cannot_control_the_terminal() -> None:
    screen = Screen(1, terminal())
    screen.step("igpo", 1, 1, IGPO)
    screen.sample(["\x1b[2J", "\x9b31m", "\u202eabc", "[bold]x"], [0, 1, 0, 0])
    text = drawn(screen)
    assert "\x1b" not in text
    assert "\x9b" not in text
    assert "\u202e" not in text
    assert "[bold]x" in text  # no markup either
    console = pipe()
    Screen(1, console).message("\x1b]0;title\x07 [red]")
    assert written(console) == "␛]0;title␇ [red]\n"


def test_a_warning_stands_out_and_is_counted() -> None:
    console = terminal(color_system="standard")
    screen = Screen(2, console)
    screen.step("igpo", 1, 2, IGPO)
    screen.message("note: all is well")
    assert "warning" not in drawn(screen)
    screen.message("warning: the policy went far away")
    assert re.search(r"\x1b\[1;33mwarning: the policy", written(console))
    assert "warning: the policy went far away" in drawn(screen)
    screen.message("warning: a likelihood ratio\nreached 1e+04")
    assert "2 warnings, the last: a likelihood ratio\n" in re.sub(" +\n", "\n", drawn(screen))


def test_time_left_is_known_after_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("igpo_cli.screen.time.monotonic", lambda: now[0])
    screen = Screen(10, terminal())
    screen.step("igpo", 0, 10, {"eval/heldout/pass@1": 0.25})
    now[0] += 5.0
    screen.step("igpo", 1, 10, IGPO | {"time/speed": 1234.5})
    text = drawn(screen)
    for part in ("1/10", "0:45 left", "0:05 so far, 5 s a step", "1,234 tokens/s"):
        assert part in text


def test_a_long_rollout_is_cut() -> None:
    screen = Screen(1, terminal())
    screen.step("igpo", 1, 1, IGPO)
    screen.sample([f" {number}" for number in range(2000)], [0] * 2000)
    assert len([line for line in drawn(screen, width=40).splitlines() if re.match(r"\d+ \d+ ", line.strip())]) == LINES
    assert "255 …" in drawn(screen, width=200)


def test_a_picture_costs_less_than_a_hundredth_of_the_time_between_two() -> None:
    screen = Screen(60, terminal())
    for step in range(1, 50):
        screen.step("igpo", step, 60, {name: value * (1 + step % 3) for name, value in IGPO.items()})
    screen.sample([" word"] * 2000, [number % 7 == 0 for number in range(2000)])
    costs = []
    for _ in range(20):
        began = time.thread_time()
        drawn(screen)
        costs.append(time.thread_time() - began)
    assert min(costs) < 0.01 / FRAMES


def test_the_live_display_ends_cleanly_on_an_error() -> None:
    console = terminal()
    screen = Screen(2, console)

    def train() -> None:
        with screen:
            screen.step("igpo", 1, 2, IGPO)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        train()
    assert written(console).rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_clock_and_memory() -> None:
    assert [clock(seconds) for seconds in (0.4, 42, 725, 10920)] == ["0:00", "0:42", "12:05", "3:02:00"]
    memory = peak_memory()
    assert memory is None or 2**20 < memory < 2**50


# The canvas -----------------------------------------------------------------------------------------------------------

WORDS = ["<mask>", "<eos>", "rev", "a", "b"]


def decode(ids: list[int]) -> str:
    return " ".join(WORDS[index] for index in ids)


def test_watching_on_a_pipe_prints_the_first_row_of_every_step() -> None:
    console = pipe()
    given = torch.tensor([[True, False, False], [False, False, False]])
    with watch(decode, given, mask_id=0, console=console) as show:
        show(0, torch.tensor([[4, 4, 2, 0, 0], [4, 4, 0, 0, 0]]))
        show(1, torch.tensor([[4, 4, 2, 3, 0], [4, 4, 0, 0, 0]]))
    assert written(console).splitlines() == ["step 0: rev · ·", "step 1: rev a ·"]


def test_watching_on_a_terminal_draws_hints_and_blanks() -> None:
    console = terminal(color_system="standard")
    with watch(decode, torch.tensor([[True, False, False]]), mask_id=0, console=console) as show:
        show(0, torch.tensor([[4, 2, 0, 0]]))
        show(1, torch.tensor([[4, 2, 3, 1]]))
    text = written(console)
    assert re.search(r"\x1b\[1;4;36mrev\x1b\[0m", text)
    assert re.search(r"\x1b\[2m·", text)
    assert "<mask>" not in text
    assert "a <eos>" in re.sub(r"\x1b\[[\d;]*m", "", text)


def test_watching_a_real_sampler_shows_every_step_and_ends_with_the_sample() -> None:
    loaded = Tiny(width=8, heads=1, layers=1)(vocabulary=["a", "b", "c"])
    prompt = torch.tensor(loaded.tokenizer("a b")["input_ids"])
    canvas = Canvas.blank([prompt, prompt[:1]], 6, mask_id=loaded.mask_id, pad_id=loaded.pad_id)
    overlay = torch.full((2, 6), -1)
    overlay[0, 1] = int(prompt[1])
    canvas = canvas.inpaint(overlay)
    console = pipe()
    text = decoder(loaded.tokenizer)
    with watch(text, canvas.given[:, -6:], mask_id=loaded.mask_id, console=console) as show:
        sample = LLaDASampler(steps=3, block=6)(
            loaded.denoiser,
            canvas,
            torch.tensor([1, 2]),
            mask_id=loaded.mask_id,
            eos_id=loaded.eos_id,
            watch=show,
        )
    lines = written(console).splitlines()
    assert [line.count("·") for line in lines] == [3, 1, 0]  # 5 blanks: 2, 2 and 1 a step
    assert lines[-1] == f"step 2: {text(sample.completion[0].tolist())}"
