"""Early stopping and the learning-rate plateau as functions over arrays.

Nothing here remembers an earlier run: the counters live in the training
state, so they are saved, restored and reset with it. Both follow Keras 3:
an epoch improves when it beats the best value by more than `min_delta`. As in
Lightning, and not in Keras, the first epoch may be the last; it takes a NaN, or
counters that another fit has left (`published.shared_callbacks`).
"""

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections

from vision_jax import config as config_lib


class CallbackState(flax.struct.PyTreeNode):
  """Counters, all scalars.

  Attributes:
    best: Best value of the monitor, signed so that lower is better.
    best_epoch: Epoch (from 1) of `best`, 0 before the first.
    wait: Epochs since the monitor improved.
    stopped: Whether early stopping has fired.
    plateau_best: As `best`, for the plateau's own threshold.
    plateau_wait: As `wait`, for the plateau.
    cooldown: Epochs left in which the plateau does not count.
    rate_scale: Multiple of the scheduled learning rate now in force.
  """
  best: jax.Array
  best_epoch: jax.Array
  wait: jax.Array
  stopped: jax.Array
  plateau_best: jax.Array
  plateau_wait: jax.Array
  cooldown: jax.Array
  rate_scale: jax.Array


def init() -> CallbackState:
  """Returns the counters before the first epoch."""
  # Each field gets a buffer of its own: the state is donated as a whole.
  infinity = lambda: jnp.full((), jnp.inf, jnp.float32)
  zero = lambda: jnp.zeros((), jnp.int32)
  return CallbackState(
      best=infinity(), best_epoch=zero(), wait=zero(),
      stopped=jnp.zeros((), bool), plateau_best=infinity(),
      plateau_wait=zero(), cooldown=zero(),
      rate_scale=jnp.ones((), jnp.float32))


def update(
    state: CallbackState,
    value: float,
    epoch: int,
    *,
    config: ml_collections.ConfigDict) -> tuple[CallbackState, jax.Array]:
  """Counts one evaluated epoch.

  Args:
    state: The counters.
    value: The monitor's value for this epoch. NaN never improves.
    epoch: Number of the epoch, from 1.
    config: The node `config.callbacks`.

  Returns:
    The new counters and whether this epoch is the best so far, bool [].
  """
  value = jnp.asarray(sign(config) * value, jnp.float32)
  improved = value < state.best - config.min_delta
  wait = jnp.where(improved, 0, state.wait + 1)
  stopped = state.stopped
  if config.patience:
    stopped = stopped | (~improved & (wait >= config.patience))
  state = state.replace(
      best=jnp.where(improved, value, state.best),
      best_epoch=jnp.where(improved, epoch, state.best_epoch),
      wait=wait, stopped=stopped)
  if config.plateau_patience:
    state = _plateau(state, value, config)
  return state, improved


def _plateau(state, value, config) -> CallbackState:
  """Keras' ReduceLROnPlateau, on the multiple of the scheduled rate."""
  cooldown = jnp.maximum(state.cooldown - 1, 0)
  wait = jnp.where(state.cooldown > 0, 0, state.plateau_wait)
  improved = value < state.plateau_best - config.plateau_min_delta
  wait = jnp.where(improved, 0, jnp.where(cooldown > 0, wait, wait + 1))
  fall = ~improved & (cooldown == 0) & (wait >= config.plateau_patience)
  fall &= state.rate_scale > config.plateau_min_scale
  lower = jnp.maximum(
      state.rate_scale * config.plateau_factor, config.plateau_min_scale)
  return state.replace(
      plateau_best=jnp.where(improved, value, state.plateau_best),
      plateau_wait=jnp.where(fall, 0, wait),
      cooldown=jnp.where(fall, config.plateau_cooldown, cooldown),
      rate_scale=jnp.where(fall, lower, state.rate_scale))


def sign(config: ml_collections.ConfigDict) -> float:
  """Returns the factor with which a lower value of the monitor is better.

  Args:
    config: The node `config.callbacks`.

  Raises:
    ConfigError: If its mode is neither min nor max.
  """
  return config_lib.choose(
      'callbacks.mode', config.mode, {'min': 1.0, 'max': -1.0})


def monitored(
    metrics: dict[str, float], config: ml_collections.ConfigDict) -> float:
  """Returns the monitor's value among an epoch's aggregates.

  Args:
    metrics: Aggregates by `<split>_<metric>`.
    config: The node `config.callbacks`.

  Raises:
    ConfigError: If the monitor is no aggregate of this run.
  """
  if config.monitor not in metrics:
    raise config_lib.ConfigError(
        f'config.callbacks.monitor={config.monitor!r} is no aggregate of an '
        f'evaluated epoch. There are: {", ".join(sorted(metrics))}. '
        '(No validation_ name means an empty validation split: set '
        'config.data.validation_fraction.)')
  return metrics[config.monitor]
