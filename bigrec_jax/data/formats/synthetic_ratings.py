"""How much the made-up store's users like what they bought: 1 to 5 stars.

The law, for what a recommender of likes could reach at best: a purchase is
liked the more, the more its shelf is to the user's hidden taste and the better
the game is; what is left is chance. A generator of its own draws them, so that
catalogue and purchases are, byte for byte, what they are without ratings.
"""

import numpy as np

from bigrec_jax.data.formats import synthetic

# Weights of taste, the game's own quality and chance in the stars.
_TASTE, _QUALITY, _CHANCE = 1.0, 0.6, 0.6
# Shares of all purchases with at most 1, 2, 3 and 4 stars.
_SHARES = (0.08, 0.22, 0.45, 0.75)


def of_world(world: synthetic.World, seed: int) -> np.ndarray:
  """Returns the stars of all interactions, float32 [n], whole numbers 1 to 5.

  Args:
    world: the store and its users.
    seed: of the world.
  """
  user, item, _ = world.interactions
  rng = np.random.default_rng([seed, 4])
  quality = rng.standard_normal(len(world.shelf))  # [I]
  chance = rng.standard_normal(len(user))  # [n]
  liking = _scaled(world.tastes[user, synthetic.taste_shelf(world.shelf)[item]])
  value = _TASTE * liking + _QUALITY * quality[item] + _CHANCE * chance
  bounds = np.quantile(value, _SHARES)
  return (1 + np.searchsorted(bounds, value)).astype(np.float32)


def _scaled(weights: np.ndarray) -> np.ndarray:
  """Returns ranks of weights [n] as mean 0 and deviation 1; ties share one."""
  _, place, count = np.unique(weights, return_inverse=True, return_counts=True)
  middle = np.cumsum(count) - (count + 1) / 2  # [distinct]
  ranks = middle[place] - middle[place].mean()
  return ranks / max(ranks.std(), 1e-12)
