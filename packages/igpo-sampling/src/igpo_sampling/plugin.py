"""The built-in models and samplers, through the same door as everybody's."""

from __future__ import annotations

from igpo_sampling.hookspecs import hookimpl


@hookimpl
def igpo_models() -> dict[str, str]:
    return {
        "bidirectional": "igpo_sampling.models.bidirectional:Bidirectional",
        "block": "igpo_sampling.models.block:Block",
        "dream": "igpo_sampling.models.dream:Dream",
        "llada": "igpo_sampling.models.llada:LLaDA",
        "masked-lm": "igpo_sampling.models.masked_lm:MaskedLM",
        "tiny": "igpo_sampling.models.tiny:Tiny",
    }


@hookimpl
def igpo_samplers() -> dict[str, str]:
    return {
        "llada": "igpo_sampling.samplers:LLaDASampler",
        "random": "igpo_sampling.samplers:RandomSampler",
        "margin": "igpo_sampling.samplers:MarginSampler",
        "entropy": "igpo_sampling.samplers:EntropySampler",
        "dream": "igpo_sampling.samplers:DreamSampler",
        "threshold": "igpo_sampling.samplers:ThresholdSampler",
        "factor": "igpo_sampling.samplers:FactorSampler",
        "entropy-bound": "igpo_sampling.samplers:EntropyBoundSampler",
        "klass": "igpo_sampling.samplers:KLASSSampler",
        "left-to-right": "igpo_sampling.samplers:LeftToRightSampler",
    }
