"""From images in [0, 1] to the range that a network takes, and back."""

from typing import Callable, NamedTuple

import jax


class Range(NamedTuple):
  """A range of values and the maps between it and [0, 1].

  Attributes:
    bounds: Lowest and highest value.
    from_unit: Map from [0, 1] into the range.
    to_unit: Its inverse.
  """
  bounds: tuple[float, float]
  from_unit: Callable[[jax.Array], jax.Array]
  to_unit: Callable[[jax.Array], jax.Array]

  def __call__(self, images: jax.Array) -> jax.Array:
    return self.from_unit(images)


RANGES = {
    'unit': Range((0.0, 1.0), lambda x: x, lambda x: x),
    'signed': Range((-1.0, 1.0), lambda x: 2 * x - 1, lambda x: (x + 1) / 2),
    # Of byte size and centred, as weights of deviation .01 need it.
    'pixels': Range(
        (-127.5, 127.5), lambda x: 255 * x - 127.5, lambda x: x / 255 + 0.5),
}
