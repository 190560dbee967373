"""The built-in tasks and verifiers, through the same door as everybody's."""

from __future__ import annotations

from igpo_data.hookspecs import hookimpl


@hookimpl
def igpo_tasks() -> dict[str, str]:
    return {
        "lists": "igpo_data.tasks.lists:Lists",
        "gsm8k": "igpo_data.tasks.gsm8k:GSM8K",
        "procedural": "igpo_data.tasks.procedural:Procedural",
        "jsonl": "igpo_data.tasks.jsonl:Jsonl",
        "huggingface": "igpo_data.tasks.huggingface:HuggingFace",
    }


@hookimpl
def igpo_verifiers() -> dict[str, str]:
    return {
        "math": "igpo_data.verifiers.math:Math",
        "exact": "igpo_data.verifiers.exact:Exact",
        "numeric": "igpo_data.verifiers.numeric:Numeric",
        "derivation": "igpo_data.verifiers.derivation:Derivation",
    }
