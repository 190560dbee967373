"""The five kinds of plug-in that igpo-rl defines.

A hook returns `{name: "module:Class"}`: nothing heavy is imported until a plug-in is used.
"""

from __future__ import annotations

from collections.abc import Mapping

import pluggy

hookspec = pluggy.HookspecMarker("igpo")
hookimpl = pluggy.HookimplMarker("igpo")


@hookspec
def igpo_chunkers() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Chunkers: how a trace is cut into hint pieces (`igpo_rl.chunkers.Chunker`)."""


@hookspec
def igpo_injections() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Injections: which pieces are shown to which row (`igpo_rl.injections.Injection`)."""


@hookspec
def igpo_filters() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Entropy filters: which hint tokens carry gradient (`igpo_rl.filters.EntropyFilter`)."""


@hookspec
def igpo_estimators() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Likelihood estimators (`igpo_rl.views.LikelihoodEstimator`)."""


@hookspec
def igpo_losses() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Policy losses (`igpo_rl.losses.PolicyLoss`)."""
