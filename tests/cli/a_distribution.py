"""Distributions for tests: a module with hooks and the metadata that an installation leaves behind."""

from __future__ import annotations

from pathlib import Path


def install(site: Path, name: str, source: str, version: str = "1.0") -> None:
    """Put a distribution with one module, `NAME_plugin`, into the folder `site`, which must be on sys.path."""
    module = f"{name}_plugin"
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[igpo]\n{name} = {module}\n")
    (site / f"{module}.py").write_text(source)


def sampler(name: str, hook: str = "igpo_samplers", module: str = "acme_plugin") -> str:
    """The source of a plug-in with one sampler, which has the options `steps` and `gamma`."""
    return f'''
from attrs import field, frozen, validators
from igpo_sampling.hookspecs import hookimpl

@hookimpl
def {hook}():
    return {{"{name}": "{module}:Bold"}}

@frozen(kw_only=True)
class Bold:
    """Commits everything at once.

    Not worth much.
    """

    steps: int = field(default=7, validator=validators.ge(1))
    """Denoising steps."""
    gamma: float = field(default=0.5, validator=[validators.gt(0.0), validators.le(1.0)])
    """How bold it is [in brackets]."""
'''
