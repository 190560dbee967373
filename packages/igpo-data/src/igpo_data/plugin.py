"""The built-in tasks and verifiers, through the same door as everybody's."""

from __future__ import annotations

from igpo_data.hookspecs import hookimpl


@hookimpl
def igpo_tasks() -> dict[str, str]:
    return {
        "lists": "igpo_data.tasks.lists:Lists",
        "gsm8k": "igpo_data.tasks.gsm8k:GSM8K",
        "metamath": "igpo_data.tasks.metamath:MetaMath",
        "math500": "igpo_data.tasks.benchmarks:Math500",
        "minerva": "igpo_data.tasks.benchmarks:Minerva",
        "amc": "igpo_data.tasks.benchmarks:AMC",
        "openr1-math": "igpo_data.tasks.openr1:OpenR1Math",
        "countdown": "igpo_data.tasks.countdown:CountdownProblems",
        "sudoku": "igpo_data.tasks.sudoku:SudokuProblems",
        "procedural": "igpo_data.tasks.procedural:Procedural",
        "code": "igpo_data.tasks.code:Code",
        "jsonl": "igpo_data.tasks.jsonl:Jsonl",
        "huggingface": "igpo_data.tasks.huggingface:HuggingFace",
        "select": "igpo_data.tasks.select:Select",
        "mixture": "igpo_data.tasks.mixture:Mixture",
    }


@hookimpl
def igpo_verifiers() -> dict[str, str]:
    return {
        "math": "igpo_data.verifiers.math:Math",
        "exact": "igpo_data.verifiers.exact:Exact",
        "numeric": "igpo_data.verifiers.numeric:Numeric",
        "code": "igpo_data.verifiers.code:Program",
        "derivation": "igpo_data.verifiers.derivation:Derivation",
        "choice": "igpo_data.verifiers.choice:Choice",
        "regex": "igpo_data.verifiers.regex:Regex",
        "json-field": "igpo_data.verifiers.json_field:JsonField",
        "countdown": "igpo_data.verifiers.countdown:Countdown",
        "sudoku": "igpo_data.verifiers.sudoku:Sudoku",
        "reasoning-gym": "igpo_data.verifiers.reasoning_gym:ReasoningGym",
        "all-of": "igpo_data.verifiers.combined:AllOf",
        "weighted": "igpo_data.verifiers.combined:Weighted",
    }
