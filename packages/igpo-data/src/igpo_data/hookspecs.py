"""The two kinds of plug-in that igpo-data defines.

A hook returns `{name: "module:Class"}`: nothing heavy is imported until a plug-in is used.
"""

from __future__ import annotations

from collections.abc import Mapping

import pluggy

hookspec = pluggy.HookspecMarker("igpo")
hookimpl = pluggy.HookimplMarker("igpo")


@hookspec
def igpo_tasks() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Task sources: frozen attrs classes that follow `igpo_data.task.TaskSource`."""


@hookspec
def igpo_verifiers() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Verifiers: frozen attrs classes that follow `igpo_data.verdict.Verifier`."""
