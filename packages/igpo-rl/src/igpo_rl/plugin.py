"""The built-in pieces of the IGPO step, through the same door as everybody's."""

from __future__ import annotations

from igpo_rl.hookspecs import hookimpl


@hookimpl
def igpo_chunkers() -> dict[str, str]:
    return {
        "random-length": "igpo_rl.chunkers:RandomLength",
        "fixed": "igpo_rl.chunkers:Fixed",
        "sentence": "igpo_rl.chunkers:Sentence",
        "step": "igpo_rl.chunkers:Step",
    }


@hookimpl
def igpo_injections() -> dict[str, str]:
    return {
        "uniform-chunks": "igpo_rl.injections:UniformChunks",
        "prefix": "igpo_rl.injections:Prefix",
        "suffix": "igpo_rl.injections:Suffix",
        "adaptive": "igpo_rl.adaptive:Adaptive",
        "reveal-last": "igpo_rl.injections:RevealLast",
        "full": "igpo_rl.injections:Full",
        "resample": "igpo_rl.injections:Resample",
        "none": "igpo_rl.injections:NoInjection",
    }


@hookimpl
def igpo_filters() -> dict[str, str]:
    return {
        "top-entropy": "igpo_rl.filters:TopEntropy",
        "threshold": "igpo_rl.filters:Threshold",
        "adaptive": "igpo_rl.filters:AdaptiveFilter",
        "keep-all": "igpo_rl.filters:KeepAll",
        "drop-hints": "igpo_rl.filters:DropHints",
    }


@hookimpl
def igpo_estimators() -> dict[str, str]:
    return {
        "mean-field": "igpo_rl.estimators.mean_field:MeanField",
        "random-mask": "igpo_rl.estimators.random_mask:RandomMask",
        "coupled": "igpo_rl.estimators.coupled:Coupled",
        "elbo": "igpo_rl.estimators.elbo:ELBO",
        "trajectory": "igpo_rl.estimators.replay:Trajectory",
        "left-to-right": "igpo_rl.estimators.replay:LeftToRight",
        "sandwich": "igpo_rl.estimators.sandwich:Sandwich",
    }


@hookimpl
def igpo_losses() -> dict[str, str]:
    return {
        "grpo": "igpo_rl.losses:GRPO",
        "gspo": "igpo_rl.losses:GSPO",
        "dapo": "igpo_rl.losses:DAPO",
        "dr-grpo": "igpo_rl.losses:DrGRPO",
        "wd1": "igpo_rl.losses:WD1",
        "spg": "igpo_rl.losses:SPG",
    }
