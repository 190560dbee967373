"""Reinforcement learning for masked-diffusion language models: plain tensors in, losses out.

Names are loaded on first use, so importing the package costs nothing.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
