"""What a person sees of a run: a live screen on a terminal, plain lines elsewhere; and a canvas as it fills in.

rich shows a live display on a pipe only once, at the end, so a pipe gets a line a step instead (SFT: some of them).
Colours go when NO_COLOR is set; hints are underlined as well, so they can be told apart without.
"""

from __future__ import annotations

import io
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from igpo_cli.pieces import pieces, visible
from igpo_cli.tracking import Score, line, scores

if TYPE_CHECKING:
    from torch import Tensor

HINT = "bold underline cyan"
WARNING = "bold yellow"
SPARKS = "▁▂▃▄▅▆▇█"
HISTORY = 32
"""Steps that a sparkline shows."""
FRAMES = 2
"""Pictures a second: a picture takes 3 ms, and the screen shall cost less than 1 % of a run."""
LONGEST, LINES = 256, 8
"""Tokens of a rollout that are shown, and lines of the screen that they may take."""

# Label, metric, format, one figure a row of the screen; rows without a measurement are left out.
_FIGURES = (
    ("loss", "sft/loss", ".3f"),
    ("accuracy", "sft/accuracy", ".3f"),
    ("reward", "reward/mean", ".3f"),
    ("entropy", "policy/entropy", ".3f"),
    ("KL", "policy/kl", ".4f"),
    ("gradient", "optimizer/grad_norm", ".3f"),
    ("clipped", "policy/clip", ".3f"),
)


class Screen:
    """The progress of one run; a context manager."""

    def __init__(self, total_steps: int, console: Console | None = None) -> None:
        self.console = console or tolerant_console()
        self.total_steps = total_steps
        self._phases: dict[str, tuple[int, int]] = {}
        self._ticks: deque[tuple[float, int]] = deque(maxlen=20)
        self._phase = ""
        self._started = time.monotonic()
        self._now: dict[str, float] = {}
        self._history: dict[str, deque[float]] = {}
        self._scores: dict[str, tuple[int, Score]] = {}
        self._sample = Text()
        self._warnings: list[str] = []
        self._lock = threading.Lock()  # the live display draws from a thread of its own
        moves = self.console.is_terminal and not self.console.is_dumb_terminal
        self._live = Live(self, console=self.console, refresh_per_second=FRAMES) if moves else None

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def step(self, phase: str, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """What was measured at a step of a phase that has `total` steps. Evaluations are rows of their own."""
        found = scores(metrics)
        with self._lock:
            if phase != self._phase:
                self._phase = phase
                self._now.clear()
                self._history = {name: past for name, past in self._history.items() if name.startswith("eval/")}
                self._ticks.clear()
            if not found or not self._ticks:  # the evaluation before the first step is when that step begins
                self._ticks.append((time.monotonic(), step))
            self._phases[phase] = (step, total)
            self._now.update(metrics)
            if "stuck/before" in metrics and "stuck/rescued" not in metrics:
                self._now.pop("stuck/rescued", None)  # no group was stuck at this step
            for name, value in metrics.items():
                self._history.setdefault(name, deque(maxlen=HISTORY)).append(value)
            self._scores |= {score.name: (step, score) for score in found}
        if self._live is None and (found or _shown(phase, step, total)):
            left = self._left()
            self._print(Text(line(phase, step, total, metrics) + (f"  {left} left" if left and not found else "")))

    def message(self, text: str) -> None:
        """A line above the figures, kept when they change; a warning stands out, and the last one stays in sight."""
        warning = text.startswith("warning:")
        if warning:
            self._warnings.append(visible(text.removeprefix("warning:").strip()).partition("\n")[0])
        self._print(Text(visible(text), WARNING if warning else ""))

    def sample(self, tokens: Sequence[str], hint: Sequence[int | bool]) -> None:
        """The latest rollout, its hint tokens marked. A pipe gets none."""
        sample = marked(tokens[:LONGEST], hint[:LONGEST])
        self._sample = sample.append(" \u2026") if len(tokens) > LONGEST else sample

    def _print(self, text: Text) -> None:
        self.console.print(text, soft_wrap=self._live is None)  # a pipe's lines are not cut

    def _left(self) -> str:
        """Time to the end of this phase at the pace of the last steps; empty while nobody can know."""
        step, total = self._phases[self._phase]
        if len(self._ticks) < 2 or step >= total:
            return ""
        return clock(self._pace() * (total - step))

    def _pace(self) -> float:
        """Seconds a step."""
        (started, first), (ended, last) = self._ticks[0], self._ticks[-1]
        return (ended - started) / max(1, last - first)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            yield Group(*self._parts(console, options))

    def _parts(self, console: Console, options: ConsoleOptions) -> list[Table | Text]:
        bars = Table.grid(padding=(0, 2))
        for phase, (step, total) in self._phases.items():
            active = phase == self._phase
            left = self._left() if active else ""
            bars.add_row(
                Text(phase, style="bold" if active else "dim"),
                ProgressBar(max(1, total), step, complete_style="cyan", width=max(8, min(30, options.max_width - 32))),
                Text(f"{step}/{total}", style="" if active else "dim"),
                Text(f"{left} left" if left else "done" if step >= total else "", style="dim"),
            )
        figures = Table.grid(padding=(0, 2))
        trends = not options.ascii_only and options.max_width >= HISTORY + 44
        for label, value, trend in self._figures("->" if options.ascii_only else "→"):
            row = [Text(label, style="dim"), Text(trend, style="blue"), value]
            figures.add_row(*(row if trends else (row[0], value)))
        parts: list[Table | Text] = [Text(), bars, Text(self._cost(), style="dim")]
        if self._warnings:
            many = f"{len(self._warnings)} warnings, the last" if len(self._warnings) > 1 else "warning"
            parts.append(Text(f"{many}: {self._warnings[-1]}", WARNING, no_wrap=True, overflow="ellipsis"))
        if figures.row_count:
            parts += [Text(), figures]
        if self._sample.plain:
            height = max(1, min(LINES, options.size.height - len(self._phases) - figures.row_count - 9))
            body = self._sample.wrap(console, max(10, options.max_width - 2))[:height]
            legend = Text("last rollout", "dim")
            if any(span.style == HINT for span in self._sample.spans):
                legend.append(", ").append("hints", HINT)
            parts += [Text(), legend, Text("\n").join(body)]
        return parts

    def _figures(self, arrow: str) -> Iterator[tuple[str, Text, str]]:
        """Label, value, trend."""
        now = self._now
        if "stuck/before" in now:
            value = Text(f"{now['stuck/before']:.2f}")
            if "stuck/after" in now:
                value.append(f" {arrow} ", "dim").append(f"{now['stuck/after']:.2f}", "bold")
            if "stuck/rescued" in now:
                value.append("  rescued ", "dim").append(f"{now['stuck/rescued']:.2f}", "green")
            yield "stuck", value, self._trend("stuck/before", top=1.0)
        for label, name, form in _FIGURES:
            if name in now:
                value = Text(f"{now[name]:{form}}")
                if name == "policy/entropy" and "policy/entropy_hint" in now:
                    value.append("  hints ", "dim").append(f"{now['policy/entropy_hint']:{form}}", "cyan")
                yield label, value, self._trend(name, top=1.0 if name == "sft/accuracy" else None)
        for name, (step, score) in self._scores.items():
            value = Text.assemble((f"{score.value:.3f}", "bold green"))
            if score.low is not None and score.high is not None:
                value.append(f"  {score.low:.3f} to {score.high:.3f}", "dim")
            value.append(f"  step {step}", "dim")
            yield name, value, self._trend(f"eval/{name}/{score.metric}")

    def _cost(self) -> str:
        parts = [f"{clock(time.monotonic() - self._started)} so far"]
        if len(self._ticks) > 1:
            parts.append(f"{self._pace():.2g} s a step")
        if "sample/forwards" in self._now:
            parts.append(f"{self._now['sample/forwards']:.3g} forwards a rollout")
        if "time/speed" in self._now:
            parts.append(f"{self._now['time/speed']:,.0f} tokens/s")
        if (memory := peak_memory()) is not None:
            parts.append(f"{memory / 2**20:,.0f} MiB")
        return ", ".join(parts)

    def _trend(self, name: str, *, top: float | None = None) -> str:
        values = self._history.get(name, ())
        if len(values) < 2:
            return ""
        low, high = (0.0, top) if top is not None else (min(values), max(values))
        if high <= low:
            return SPARKS[0] * len(values)
        return "".join(SPARKS[min(7, int((value - low) / (high - low) * 8))] for value in values)


def tolerant_console() -> Console:
    """A console on standard output where a character that the terminal cannot show is a question mark, not a crash."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return Console()


def marked(tokens: Sequence[str], hint: Sequence[int | bool]) -> Text:
    """Tokens as one text, hints coloured and underlined."""
    text = Text()
    for token, given in zip(tokens, hint, strict=True):
        blank = len(token) - len(token.lstrip())  # the space before a word is not underlined
        text.append(visible(token[:blank])).append(visible(token[blank:]), HINT if given else None)
    return text


def clock(seconds: float) -> str:
    """0:42, 12:05, 3:02:00."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def peak_memory() -> float | None:
    """Bytes: of the accelerator if one is in use, else of this process; None where the system does not tell."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return float(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)


def _shown(phase: str, step: int, total: int) -> bool:
    """On a pipe: every step of IGPO, about twenty of SFT."""
    return phase != "sft" or step in (1, total) or step % max(1, total // 20) == 0


# The canvas ------------------------------------------------------------------------------------------------------------


BLANK, END = "·.", "▪|"
"""How a blank and an EOS token are drawn: where there is Unicode, and where there is only ASCII."""
NEW = "green"
"""Tokens of the latest step."""


def drawn(texts: Sequence[str], look: Sequence[str], *, plain: bool = False) -> Text:
    """One row of a canvas. `look` says of each token: "hint", "new" (both coloured), "blank", "end" (dim signs) or "".

    Signs keep the space before them.
    """
    signs = {"blank": BLANK[plain], "end": END[plain]}
    canvas = Text()
    for text, kind in zip(texts, look, strict=True):
        if kind in signs:
            canvas.append(text[: len(text) - len(text.lstrip())]).append(signs[kind], "dim")
        else:
            token = marked([text], [kind == "hint"])
            canvas.append_text(token if kind != "new" else Text(token.plain, NEW))
    return canvas


@contextmanager
def watch(
    decode: Callable[[list[int]], str],
    given: Tensor,
    *,
    mask_id: int,
    eos_id: int | None = None,
    pause: float = 0.0,
    title: str = "",
    prompts: Sequence[str] = (),
    console: Console | None = None,
) -> Iterator[Callable[[int, Tensor], None]]:
    """A sampler's `watch` callback that draws its rows live: (step, tokens (B, T)), of which the last L are drawn.

    given: (B, L) bool, True on hint tokens. `pause` seconds after each step, for models faster than the eye.
    On a pipe every step of the first row is a line. On a terminal the picture goes at the end.
    """
    console = console or tolerant_console()
    width, hints = given.shape[1], given.tolist()
    live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
    plain = console.options.ascii_only
    blank = [[not hint for hint in row] for row in hints]

    def canvas(row: int, ids: list[int]) -> Text:
        looks = []
        for at, token in enumerate(ids):
            look = "hint" if hints[row][at] else "blank" if token == mask_id else "end" if token == eos_id else ""
            looks.append("new" if not look and live and blank[row][at] else look)
            blank[row][at] = look == "blank"
        return drawn(pieces(decode, ids), looks, plain=plain)

    def picture(step: int, rows: Sequence[list[int]]) -> Iterator[Text]:
        left = sum(ids.count(mask_id) for ids in rows)
        yield Text.assemble(
            (f"{title}  " if title else "", "bold blue"),
            (f"step {step}, {left} blank{'s' * (left != 1)} left, ", "dim"),
            ("new", NEW),
            " ",
            ("hint", HINT),
            no_wrap=True,
            overflow="ellipsis",
        )
        room = console.height - 2
        for row, ids in enumerate(rows):
            lines = list(canvas(row, ids).wrap(console, console.width))
            if row and room < len(lines) + 1:
                yield Text(f"and {len(rows) - row} more", "dim")
                return
            if prompts:
                yield Text(visible(prompts[row]).partition("\n")[0], "bold", no_wrap=True, overflow="ellipsis")
            first = next((at for at, line in enumerate(lines) if BLANK[plain] in line.plain), 0)
            start = max(0, min(first - 1, len(lines) - room))
            yield Text("\n").join(lines[start : start + room])
            room -= len(lines) + bool(prompts)

    def show(step: int, tokens: Tensor) -> None:
        rows = tokens[:, -width:].tolist()
        if live is None:
            console.print(Text(f"{title} step {step}: ".lstrip()) + canvas(0, rows[0]), soft_wrap=True)
            return
        live.update(Group(*picture(step, rows)), refresh=True)
        if pause:
            time.sleep(pause)

    with live or nullcontext():
        yield show
