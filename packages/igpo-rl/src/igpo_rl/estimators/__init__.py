"""Likelihood estimators, one idea a file: which noised copies of a completion are read, and what their log-probs count."""

from igpo_rl.estimators.coupled import Coupled
from igpo_rl.estimators.elbo import ELBO
from igpo_rl.estimators.mean_field import MeanField
from igpo_rl.estimators.random_mask import RandomMask
from igpo_rl.estimators.replay import LeftToRight, Trajectory
from igpo_rl.estimators.sandwich import Sandwich

__all__ = ["ELBO", "Coupled", "LeftToRight", "MeanField", "RandomMask", "Sandwich", "Trajectory"]
