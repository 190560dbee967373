"""`igpo data check`: would this task source train well? Traces, answer spans, lengths, and the verifier on the reference."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from igpo_cli.commands import App, config_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text

    from igpo_cli.config import Config
    from igpo_data import Task
    from igpo_rl import Problem


def register(app: App) -> None:
    """Adds `igpo data check`."""

    @config_command(app, "data check", tables=("", "task", "verifier", "prompt", "model"))
    def check(
        config: Config,
        *,
        judged: Annotated[int, typer.Option(min=0, help="Reference solutions that the verifier judges.")] = 200,
        as_json: Annotated[bool, typer.Option("--json", help="One object.")] = False,
    ) -> None:
        """Check the tasks of a run: lengths, traces, where the answers stand, what may be a hint, verdicts."""
        from igpo_cli.assemble import load_model
        from igpo_cli.problems import ProblemSet
        from igpo_cli.tasks import task_name, tasks_of, verifier_of
        from igpo_data import verify

        tasks = tasks_of(config, config.run.split, limit=config.run.limit)
        loaded = load_model(config)
        problems = ProblemSet.encode(tasks, config.section("prompt"), loaded.tokenizer)
        traced = [task for task in tasks if task.trace is not None]
        with verifier_of(config) as verifier:
            verdicts = verify(verifier, [(task.trace or "", task) for task in traced[:judged]])
        found: dict[str, Any] = {
            "task": task_name(config),
            "split": config.run.split,
            **figures(tasks, problems.problems, config.run.width),
            "references judged": len(verdicts),
            "references judged correct": sum(verdict.correct for verdict in verdicts),
        }
        if as_json:
            print(json.dumps(found, indent=2))
            return
        wrong = [task for task, verdict in zip(traced, verdicts, strict=False) if not verdict.correct]
        show(found, traced[:1], problems.problems, wrong[:3], loaded.tokenizer)


def figures(tasks: Sequence[Task], problems: Sequence[Problem], width: int) -> dict[str, Any]:
    """Counts and lengths; tokens are those of the run's model and template."""
    prompts = [len(problem.prompt) for problem in problems]
    traced = [problem for problem in problems if problem.trace is not None]
    traces = [len(problem.trace) for problem in traced if problem.trace is not None]
    hintable = [int(problem.hintable.sum()) for problem in traced if problem.hintable is not None]
    seen = sum(
        bool((problem.answer_value & problem.hintable).any())
        for problem in traced
        if problem.answer_value is not None and problem.hintable is not None
    )
    return {
        "tasks": len(tasks),
        "repeated keys": len(tasks) - len({task.key for task in tasks}),
        "repeated prompts": len(tasks) - len({task.prompt for task in tasks}),
        "without an answer": sum(not task.answer for task in tasks),
        "with a trace": len(traced),
        "answer located in the trace": sum(task.can_hint for task in tasks),
        "usable for hints": sum(count > 0 for count in hintable),
        "answer's value also occurs in the working": seen,
        "traces that leave no room to end": sum(length >= width for length in traces),
        "width": width,
        "prompt tokens": spread(prompts),
        "trace tokens": spread(traces),
        "hintable tokens": spread(hintable),
    }


def spread(values: Sequence[int]) -> dict[str, float] | None:
    """Mean, median, 95th percentile and maximum; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return {
        "mean": round(sum(ordered) / len(ordered), 1),
        "median": ordered[len(ordered) // 2],
        "95 %": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "max": ordered[-1],
    }


def show(
    found: dict[str, Any], example: Sequence[Task], problems: Sequence[Problem], wrong: Sequence[Task], tokenizer: Any
) -> None:
    """The figures as lines, one trace with its hintable part coloured, references that the verifier refuses."""
    from rich.text import Text

    from igpo_cli.pieces import visible
    from igpo_cli.table import pairs, pipe_or_terminal

    console = pipe_or_terminal()
    about = {}
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number:,}" for key, number in value.items())
        about[name] = f"{value:,}" if isinstance(value, int) else str(value or "-")
    pairs(about, console)
    for task in example:
        problem = next(problem for problem in problems if problem.key == task.key)
        console.print(
            Text("\nThe first task; ").append("what may be a hint", "bold underline cyan").append(", the rest never:")
        )
        console.print(Text(visible(task.prompt), "bold"), soft_wrap=True)
        console.print(coloured(problem, tokenizer), soft_wrap=True)
    for task in wrong:
        console.print(Text(f"\nThe verifier refuses the reference solution of {visible(task.key)}:", "yellow"))
        console.print(
            Text(visible(task.trace or "")), Text(f"answer: {visible(task.answer)}"), soft_wrap=True, sep="\n"
        )


def coloured(problem: Problem, tokenizer: Any) -> Text:
    """The trace, its hintable tokens marked."""
    from igpo_cli.pieces import decoder, pieces
    from igpo_cli.screen import marked

    assert problem.trace is not None
    assert problem.hintable is not None
    return marked(pieces(decoder(tokenizer), problem.trace.tolist()), problem.hintable.tolist())
