"""Two checks on training itself: numbers stay finite, frozen weights stay put.

The first runs inside the jitted step and costs one pass over the weights; the
host reads its verdict only now and then. The second runs once, after the
first update.
"""

from typing import Any
import warnings

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vision_jax import optim

_NEVER = np.iinfo(np.int32).max


class NonFiniteError(FloatingPointError):
  """Training produced a NaN or an infinity; the message says where."""


class Guard(flax.struct.PyTreeNode):
  """The first step with a non-finite number, and what was non-finite.

  Attributes:
    step: That step, int32 []; the largest int32 while there is none.
    flags: Whether each watched group was non-finite then, by name.
  """
  step: jax.Array
  flags: dict[str, jax.Array]


def init(params: Any, metric_names) -> Guard:
  """Returns a guard that has seen nothing, on the host.

  Args:
    params: Parameter tree; each top-level module is a group.
    metric_names: Names of the metrics of a training step.
  """
  names = [f'metric {name}' for name in metric_names]
  names += [f'weights of {name}' for name in params]
  return Guard(
      step=np.array(_NEVER, np.int32),
      flags={name: np.zeros((), bool) for name in names})


def update(
    guard: Guard, params: Any, metrics: dict[str, jax.Array], *,
    step: jax.Array) -> Guard:
  """Records `step` if a metric or a weight is not finite; pure, jittable."""
  bad = lambda tree: jnp.any(jnp.stack(
      [jnp.any(~jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
  flags = {f'metric {name}': bad(value) for name, value in metrics.items()}
  flags |= {f'weights of {name}': bad(tree) for name, tree in params.items()}
  first = jnp.any(jnp.stack(list(flags.values()))) & (guard.step == _NEVER)
  return Guard(
      step=jnp.where(first, step, guard.step),
      flags={name: jnp.where(first, flags[name], guard.flags[name])
             for name in guard.flags})


def check(guard: Guard, *, last_good: str) -> None:
  """Raises NonFiniteError if the guard has seen a non-finite number.

  Args:
    guard: The guard after some steps; reading it waits for them.
    last_good: Says which checkpoint still holds finite weights.
  """
  guard = jax.device_get(guard)
  if guard.step == _NEVER:
    return
  names = [name for name, flag in guard.flags.items() if flag]
  raise NonFiniteError(
      f'Not finite at step {int(guard.step)}: {", ".join(names)}. {last_good} '
      'Lower config.optimizer.learning_rate or set '
      'config.optimizer.clip_norm.')


def check_moved(before: Any, after: Any, trainable: Any) -> None:
  """Compares the weights before and after the first update.

  Args:
    before: Parameter tree.
    after: Parameter tree one update later.
    trainable: Tree of bool, whether a leaf is meant to move.

  Raises:
    RuntimeError: If a frozen leaf moved; the message names it.

  Warns:
    UserWarning: If a trainable leaf did not move (a dead unit, or a leaf
      that is frozen by mistake).
  """
  strayed, stuck = [], []
  for (path, old), new, wanted in zip(
      jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after),
      jax.tree.leaves(trainable), strict=True):
    # On the host: a program for it would take longer to compile.
    moves = np.any(np.asarray(old) != np.asarray(new))
    if moves and not wanted:
      strayed.append(optim.path_name(path))
    if wanted and not moves:
      stuck.append(optim.path_name(path))
  if strayed:
    raise RuntimeError(
        f'Frozen weights moved in the first update: {", ".join(strayed)}.')
  if stuck:
    warnings.warn(
        'Trainable weights did not move in the first update: '
        f'{", ".join(stuck)}.', stacklevel=2)
