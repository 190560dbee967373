"""Sampling and inpainting with masked-diffusion language models."""

import lazy_loader as lazy

from igpo_sampling.__about__ import __version__ as __version__

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
