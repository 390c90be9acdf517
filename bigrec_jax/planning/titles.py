"""What programs hold of the catalogue's titles: tries and their tables."""

from typing import NamedTuple

import jax
from jax.sharding import Mesh

from bigrec_jax.decoding import constraints
from bigrec_jax.devices import sharding
from bigrec_jax.planning import arguments


class Titles(NamedTuple):
  """Tables whose sizes only the titles tell.

  Attributes:
    trie: of what generate may write, on the host; None = anything, or not
      known.
    ranges: K, of a user's prior over the trie; 0 = there is none.
    train: bytes of what the training objective reads in every batch.
  """

  trie: constraints.Trie | None = None
  ranges: int = 0
  train: int = 0

  def abstract(self, mesh: Mesh) -> constraints.Trie | None:
    """Returns the trie's shapes, whole on every device."""
    whole = sharding.replicated(mesh)
    return jax.tree.map(
      lambda x: arguments.array(x.shape, x.dtype, whole), self.trie
    )

  def sizes(self) -> dict[str, int]:
    """Returns the bytes of a device by what they are for."""
    leaves = jax.tree.leaves(self.trie)
    return {
      "train": self.train,
      "generate": sum(leaf.nbytes for leaf in leaves),
      "prior of a user": 4 * self.ranges,
    }


NONE = Titles()
