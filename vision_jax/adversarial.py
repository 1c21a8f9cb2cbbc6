"""Losses and regularisers of a generator against a discriminator.

Per example, of logits that are high for real images; nothing here averages
over padding, knows a network or a config.
"""

from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import optax

Array = jax.Array
# Keras' clip of probabilities, which its loss of probabilities needs.
_KERAS_EPSILON = 1e-7


class Objective(NamedTuple):
  """What the two players minimise.

  Attributes:
    discriminator: (real logits [B], fake logits [B], key) -> the losses on
      real and on fake images, each [B]; their sum is minimised.
    generator: (fake logits [B]) -> losses [B].
    real_sign: 1 where high logits mean real, -1 where they mean fake.
  """
  discriminator: Callable[[Array, Array, Array], tuple[Array, Array]]
  generator: Callable[[Array], Array]
  real_sign: int = 1


def binary_targets(
    key: Array, shape: tuple[int, ...], *, smoothing: float, noise: float,
) -> tuple[Array, Array]:
  """Returns targets of real and of fake images, both inside [0, 1].

  Real: 1 - smoothing - noise * u, fake: noise * u, u uniform in [0, 1), fresh
  for each. Smoothing is one-sided (Salimans et al. 2016, arXiv:1606.03498).

  Raises:
    ValueError: If a target could leave [0, 1].
  """
  if smoothing < 0 or noise < 0 or smoothing + noise > 1:
    raise ValueError(
        f'label smoothing {smoothing} and noise {noise} must not be negative '
        'and their sum not above 1')
  real, fake = noise * jax.random.uniform(key, (2, *shape))
  return 1 - smoothing - real, fake


def non_saturating(*, smoothing: float = 0.0, noise: float = 0.0) -> Objective:
  """Binary cross-entropy; G maximises log D (Goodfellow et al. 2014)."""
  entropy = optax.sigmoid_binary_cross_entropy
  def discriminator(real, fake, key):
    targets = binary_targets(
        key, real.shape, smoothing=smoothing, noise=noise)
    return entropy(real, targets[0]), entropy(fake, targets[1])
  return Objective(discriminator, lambda fake: jax.nn.softplus(-fake))


def least_squares() -> Objective:
  """Squared distance to 1 and 0 (Mao et al. 2017, arXiv:1611.04076, eq. 9)."""
  return Objective(
      lambda real, fake, key: ((real - 1)**2 / 2, fake**2 / 2),
      lambda fake: (fake - 1)**2 / 2)


def hinge() -> Objective:
  """Hinge (Lim & Ye 2017, arXiv:1705.02894)."""
  return Objective(
      lambda real, fake, key: (jax.nn.relu(1 - real), jax.nn.relu(1 + fake)),
      lambda fake: -fake)


def wasserstein() -> Objective:
  """Difference of means (Arjovsky et al. 2017); needs a gradient penalty."""
  return Objective(lambda real, fake, key: (-real, fake), lambda fake: -fake)


def study_cross_entropy() -> Objective:
  """The jellyfish study's: logits mean fake, and noise lifts targets above 1.

  Fake targets are 1 + .05 u, real ones .05 u; the loss is the mean over both,
  of clipped probabilities. Below a target above 1 it has no minimum: at a
  probability of .999999 and a target of 1.05 it is -.690.
  """
  def entropy(logits, targets):
    p = jnp.clip(
        jax.nn.sigmoid(logits), _KERAS_EPSILON, 1 - _KERAS_EPSILON)
    return -(targets * jnp.log(p) + (1 - targets) * jnp.log1p(-p))
  def discriminator(real, fake, key):
    noise = 0.05 * jax.random.uniform(key, (2, *real.shape))
    return entropy(real, noise[0]) / 2, entropy(fake, 1 + noise[1]) / 2
  return Objective(
      discriminator, lambda fake: entropy(fake, jnp.zeros_like(fake)),
      real_sign=-1)


def _squared_slopes(critic, images: Array) -> Array:
  """Squared norm [B] of the gradient of `critic` at each of `images`."""
  slopes = jax.grad(lambda x: critic(x).sum())(images)
  return jnp.square(slopes).sum(tuple(range(1, images.ndim)))


def r1_penalty(critic, real: Array) -> Array:
  """|grad D|^2 / 2 at real images, [B] (Mescheder et al. 2018, eq. 9).

  Args:
    critic: (images [B, ...]) -> logits [B], each of its own image alone.
    real: [B, ...].
  """
  return _squared_slopes(critic, real) / 2


def gradient_penalty(critic, real: Array, fake: Array, key: Array) -> Array:
  """(|grad D| - 1)^2 between real and fake images, [B].

  Source: Gulrajani et al. 2017, arXiv:1704.00028, eq. 3; arguments as for
  `r1_penalty`.
  """
  share = jax.random.uniform(key, (len(real),) + (1,) * (real.ndim - 1))
  squares = _squared_slopes(critic, share * real + (1 - share) * fake)
  # The slope of a square root at zero is infinite.
  return (jnp.sqrt(squares + 1e-12) - 1)**2


def lecam(
    real: Array, fake: Array, means: dict[str, Array]) -> tuple[Array, Array]:
  """Squared distances to the other side's moving average, each [B].

  Source: Tseng et al. 2021, arXiv:2104.03310, eq. 4.

  Args:
    real: logits of real images, [B].
    fake: logits of fake images, [B].
    means: moving averages `real` and `fake` of the two, [].
  """
  return (real - means['fake'])**2, (fake - means['real'])**2
