"""Tasks with worked solutions and verifiers that can be trusted.

Importing this package imports nothing else; the names below are loaded when they are used.
"""

from __future__ import annotations

import lazy_loader as lazy

from igpo_data.__about__ import __version__ as __version__

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
