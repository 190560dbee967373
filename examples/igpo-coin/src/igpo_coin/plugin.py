"""What this distribution adds to igpo: names and where their classes stand. Nothing is imported before it is used."""

from __future__ import annotations

from igpo_sampling.hookspecs import hookimpl


@hookimpl
def igpo_samplers() -> dict[str, str]:
    return {"coin": "igpo_coin.sampler:CoinSampler"}


@hookimpl
def igpo_verifiers() -> dict[str, str]:
    return {"change": "igpo_coin.verifier:Change"}
