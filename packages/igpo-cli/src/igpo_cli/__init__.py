"""The igpo command: the only package that knows all three libraries."""

from igpo_cli.__about__ import __version__

__all__ = ["__version__"]
