"""The two kinds of plug-in that igpo-sampling defines.

A hook returns `{name: "module:Class"}`: nothing heavy is imported until a plug-in is used.
"""

from __future__ import annotations

from collections.abc import Mapping

import pluggy

hookspec = pluggy.HookspecMarker("igpo")
hookimpl = pluggy.HookimplMarker("igpo")


@hookspec
def igpo_models() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Models: frozen attrs classes that follow `igpo_sampling.denoiser.Model`."""


@hookspec
def igpo_samplers() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Samplers: frozen attrs classes that follow `igpo_sampling.samplers.Sampler`."""
