"""Optimizers and learning-rate schedules, all from optax, built from a config.

Frozen leaves get no update and no optimizer state. Early stopping and the
plateau live in callbacks.py.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from vision_jax import config as config_lib
from vision_jax import losses


def make_schedule(
    config: ml_collections.ConfigDict,
    *,
    steps_per_epoch: int,
    epochs: int) -> optax.Schedule:
  """Returns the learning rate as a function of the update's number.

  Args:
    config: The node `config.optimizer`.
    steps_per_epoch: Batches an epoch; `config.accumulate` of them make one
      update.
    epochs: Length of training, the cosine's half period.
  """
  rate = config.learning_rate
  # Updates an epoch, a fraction where one update takes batches of two epochs.
  per_epoch = steps_per_epoch / config.accumulate
  warmup = round(config.warmup_epochs * per_epoch)
  total = max(1, epochs * steps_per_epoch // config.accumulate - warmup)
  schedule = config_lib.choose('optimizer.schedule', config.schedule, {
      'constant': optax.constant_schedule(rate),
      'cosine': optax.cosine_decay_schedule(rate, total),
      'step': optax.exponential_decay(
          rate, config.step_epochs * per_epoch, config.step_factor,
          staircase=True),
  })
  if not warmup:
    return schedule
  # The first update already moves: a rate of exactly zero would hide a leaf
  # that is frozen by mistake.
  ramp = optax.linear_schedule(rate / (warmup + 1), rate, warmup)
  return optax.join_schedules([ramp, schedule], [warmup])


def make_optimizer(
    config: ml_collections.ConfigDict,
    *,
    trainable: Any,
    steps_per_epoch: int,
    epochs: int,
    stages: tuple[str, ...] = ()) -> optax.GradientTransformation:
  """Returns the optimizer for the leaves that `trainable` marks.

  Args:
    config: The node `config.optimizer`.
    trainable: Tree of bool in the shape of the parameters; the others are
      never moved.
    steps_per_epoch: Batches an epoch.
    epochs: Length of training.
    stages: Regular expressions of parameter paths, from input to output, for
      rates that fall with the distance from the head.

  Raises:
    ConfigError: For an unknown optimizer or one that ignores weight decay.
  """
  schedule = make_schedule(
      config, steps_per_epoch=steps_per_epoch, epochs=epochs)
  moments = dict(b1=config.b1, b2=config.b2, eps=config.eps)
  build = config_lib.choose('optimizer.name', config.name, {
      'adam': lambda: optax.adam(schedule, **moments),
      'adamw': lambda: optax.adamw(
          schedule, **moments, weight_decay=config.weight_decay,
          mask=losses.kernel_mask),
      'adamax': lambda: optax.adamax(schedule, **moments),
      'sgd': lambda: optax.chain(
          optax.add_decayed_weights(
              config.weight_decay, mask=losses.kernel_mask),
          optax.sgd(schedule, momentum=config.b1 or None)),
  })
  if config.weight_decay and config.name in ('adam', 'adamax'):
    raise config_lib.ConfigError(
        f'config.optimizer.weight_decay has no effect with {config.name!r}; '
        'use adamw (decoupled) or sgd (L2).')
  steps = [build()]
  if config.clip_norm:
    steps.insert(0, optax.clip_by_global_norm(config.clip_norm))
  if config.layer_decay != 1.0 or config.unfreeze_epochs:
    steps.append(scale_by_depth(
        stages, decay=config.layer_decay, unfreeze_updates=round(
            config.unfreeze_epochs * steps_per_epoch / config.accumulate)))
  optimizer = optax.chain(*steps)
  if config.accumulate > 1:
    optimizer = optax.MultiSteps(
        optimizer, config.accumulate).gradient_transformation()
  labels = jax.tree.map(lambda t: 'moved' if t else 'frozen', trainable)
  return optax.partition(
      {'moved': optimizer, 'frozen': optax.set_to_zero()},
      lambda params: among(labels, params))


def scale_by_depth(
    stages: tuple[str, ...], *, decay: float, unfreeze_updates: int,
) -> optax.GradientTransformation:
  """Scales updates by decay ** depth, and holds deep stages back at first.

  The head has depth 0, the encoder's last stage 1, its first len(stages). A
  stage of depth d rests for d * unfreeze_updates updates. Source: Howard &
  Ruder 2018, arXiv:1801.06146 (discriminative rates, gradual unfreezing).

  Args:
    stages: Regular expressions of parameter paths, from input to output.
    decay: Factor for one stage.
    unfreeze_updates: Updates before the next deeper stage moves.

  Raises:
    ConfigError: If there are no stages to tell apart.
  """
  if not stages:
    raise config_lib.ConfigError(
        'config.optimizer.layer_decay and unfreeze_epochs need an encoder.')
  def depth(path):
    name = path_name(path)
    for i, stage in enumerate(stages):
      if re.search(stage, name):
        return len(stages) - i
    return 0
  def init(params):
    del params
    return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))
  def update(updates, state, params=None):
    del params
    def scale(path, leaf):
      moves = state.count >= depth(path) * unfreeze_updates
      return leaf * jnp.where(moves, decay**depth(path), 0.0).astype(leaf.dtype)
    updates = jax.tree_util.tree_map_with_path(scale, updates)
    return updates, optax.ScaleByScheduleState(count=state.count + 1)
  return optax.GradientTransformation(init, update)


def trainable_mask(params: Any, frozen: str) -> Any:
  """Marks the leaves of `params` that train.

  Args:
    params: Parameter tree.
    frozen: Regular expression searched in paths such as
      'encoder/conv_0/kernel'; '' freezes nothing.

  Raises:
    ConfigError: If the expression matches no path.
  """
  if not frozen:
    return jax.tree.map(lambda _: True, params)
  mask = jax.tree_util.tree_map_with_path(
      lambda path, _: not re.search(frozen, path_name(path)), params)
  if all(jax.tree.leaves(mask)):
    names = [path_name(p) for p, _ in
             jax.tree_util.tree_leaves_with_path(params)]
    raise config_lib.ConfigError(
        f'config.model.frozen={frozen!r} matches no parameter. There are: '
        f'{", ".join(names[:8])}{" ..." if len(names) > 8 else ""}')
  return mask


def among(tree: Any, params: Any) -> Any:
  """Returns `tree` without the top-level modules that `params` lacks.

  Training from cached features carries no encoder, see `features.detach`. One
  value for all stays as it is.
  """
  if not isinstance(tree, dict):
    return tree
  return {name: tree[name] for name in params}


def path_name(path: tuple[Any, ...]) -> str:
  """Returns a tree path as 'module/submodule/leaf'."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def stop_frozen(params: Any, trainable: Any) -> Any:
  """Returns `params` with no gradient through the leaves that are frozen."""
  return jax.tree.map(
      lambda p, t: p if t else jax.lax.stop_gradient(p), params, trainable)


def after(value: jax.Array, grads: Any) -> jax.Array:
  """Returns `value`, on a CPU in a form that waits for all of `grads`.

  An update is written over its parameters, which gradients of earlier layers
  still read. XLA does not put the one after the other unless one depends on the
  other; it copies the parameters first: 268 MB a step for a dense layer of
  131,072 to 512.

  Args:
    value: What every update depends on, a scalar.
    grads: Tree of arrays of float32.
  """
  if jax.default_backend() != 'cpu':
    return value
  # Zero, whatever the number, which XLA does not see.
  bits = [jax.lax.bitcast_convert_type(leaf.ravel()[0], jnp.int32)
          for leaf in jax.tree.leaves(grads) if leaf.size]
  zero = sum(jnp.minimum(jax.lax.shift_right_logical(b, 1), 0) for b in bits)
  # XLA computes a division once; a sum it would compute within every update,
  # each with all the gradients.
  return value / jnp.asarray(1 + zero, value.dtype)
