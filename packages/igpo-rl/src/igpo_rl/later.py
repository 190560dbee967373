"""Modules that are imported when they are first used: plug-in modules name torch, and listing plug-ins must not load it.

Not importlib's LazyLoader (nor `lazy_loader.load`, which uses it): with newer Pythons, such as 3.13.0, a module that deletes one
of its own names while it is loaded, as torch does, recurses there without end.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class Later(ModuleType):
    """Stands for a module, which is imported once an attribute of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


def load(name: str) -> Later:
    """The module of this name, later."""
    return Later(name)
