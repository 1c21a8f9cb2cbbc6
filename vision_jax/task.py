"""The two types that all tasks share: what a task is, and what training is.

A task is a few pure functions; the loop knows nothing else about it.
"""

import pathlib
from typing import Any, Callable, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vision_jax import callbacks
from vision_jax import optim
from vision_jax import runtime

Batch = dict[str, jax.Array]
Key = jax.Array


class TrainState(flax.struct.PyTreeNode):
  """Everything that training changes, as arrays; it is its own checkpoint.

  Attributes:
    step: Number of updates made, int32 [].
    params: Trainable and frozen weights.
    batch_stats: Moving statistics; {} where a model has none.
    opt_state: The optimizer's state.
    ema: Moving average of params; {} where it is off.
    best: params and batch_stats of the best epoch so far; {} where they are
      not kept.
    callbacks: Counters of early stopping and of the learning-rate plateau.
  """
  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  ema: Any
  best: Any
  callbacks: callbacks.CallbackState

  def variables(self) -> dict[str, Any]:
    """Returns the weights to evaluate: the average where one is kept."""
    return {
        'params': self.ema if self.ema else self.params,
        'batch_stats': self.batch_stats,
    }


class Info(NamedTuple):
  """What a task may know of its data.

  Attributes:
    class_names: Names in the order of the labels.
    input_shape: Height, width and channels of an image.
    steps_per_epoch: Training steps an epoch, at least 1.
    class_counts: Training examples of each class; () where nothing trains.
  """
  class_names: tuple[str, ...]
  input_shape: tuple[int, int, int]
  steps_per_epoch: int
  class_counts: tuple[int, ...] = ()


class Outcome(NamedTuple):
  """What a finished run hands to its task's report.

  Attributes:
    folder: The run folder.
    outputs: Per-example outputs on the host, by split and name.
    metrics: Metrics by split and name.
    ids: Name of each example of the data set.
    state: The state whose weights were tested.
    batch: A few test images, unaugmented.
    train_images: () -> the training images, uint8 [n, H, W, C].
  """
  folder: pathlib.Path
  outputs: dict[str, dict[str, np.ndarray]]
  metrics: dict[str, dict[str, float]]
  ids: tuple[str, ...]
  state: TrainState
  batch: Batch
  train_images: Callable[[], np.ndarray]


class Generator(NamedTuple):
  """What a task that draws images offers to `--mode=sample` and to reports.

  Attributes:
    latent_dims: Length d of a latent vector, standard normal.
    classes: Classes that can be asked for; 0 = unconditional.
    generate: (state, latents [n, d], labels int32 [n]) -> images [n, H, W, C]
      in [0, 1], from `state.variables()`.
  """
  latent_dims: int
  classes: int
  generate: Callable[[TrainState, jax.Array, jax.Array], jax.Array]


class Task(NamedTuple):
  """A task, as pure functions of a state, a batch and a key.

  A batch holds `image` float32 [B, H, W, C] in [0, 1] (or `features` [B, ...]
  where `encode` ran before), `label` int32 [B], `id` int32 [B] and `mask`
  float32 [B], zero for padding.

  Attributes:
    init: (key) -> TrainState.
    train_step: (state, batch, key) -> (state, sums), sums a clu Collection.
    train_sums: The class of that Collection; `empty()` starts an epoch.
    eval_step: (state, batch) -> per-example arrays by name, each [B, ...].
    summarize: (arrays of a whole split on the host) -> metrics by name.
    trainable: Tree of bool like `params`: whether a leaf is meant to move.
    encode: (state, batch) -> features [B, ...] of the frozen part, or None
      where it does not exist or has to run every step.
    table: (arrays) -> columns of a prediction table by name, each [n].
    report: (Outcome) -> entries of `result.json`; writes tables and figures.
    start: (variables) -> TrainState of step 0 with these weights, those of the
      encoder left out where its features are cached; None where `encode` is.
    embed: (state, batch) -> features [B, d] that the last layer takes, or None
      where the task has no last layer to refine.
  """
  init: Callable[[Key], TrainState]
  train_step: Callable[[TrainState, Batch, Key], tuple[TrainState, Any]]
  train_sums: Any
  eval_step: Callable[[TrainState, Batch], Batch]
  summarize: Callable[[dict[str, np.ndarray]], dict[str, float]]
  trainable: Any
  encode: Callable[[TrainState, Batch], jax.Array] | None
  table: Callable[[dict[str, np.ndarray]], dict[str, Any]]
  report: Callable[[Outcome], dict[str, Any]]
  start: Callable[[dict[str, Any]], TrainState] | None = None
  embed: Callable[[TrainState, Batch], jax.Array] | None = None
  generator: Generator | None = None
  preview: Callable[[pathlib.Path, TrainState, int], None] | None = None


def create_state(
    variables: dict[str, Any],
    optimizer: optax.GradientTransformation,
    *,
    keep_ema: bool,
    keep_best: bool) -> TrainState:
  """Returns the state of step 0 for freshly initialised `variables`.

  Args:
    variables: Collections `params` and, where the model has them,
      `batch_stats`.
    optimizer: The transformation whose state is made.
    keep_ema: Whether a moving average of the weights is kept.
    keep_best: Whether the best epoch's weights are kept.
  """
  def create(variables):
    params = variables['params']
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=(
            variables['batch_stats'] if 'batch_stats' in variables else {}),
        opt_state=optimizer.init(params),
        ema=params if keep_ema else {},
        best={},
        callbacks=callbacks.init(),
    )
    if keep_best:
      state = state.replace(best=state.variables())
    # The state is donated to each step, so no two leaves may share a buffer.
    return jax.tree.map(jnp.copy, state)
  return runtime.once(create, variables)


def apply_gradients(
    state: TrainState,
    grads: Any,
    optimizer: optax.GradientTransformation,
    *,
    trainable: Any,
    batch_stats: Any,
    ema_decay: float) -> TrainState:
  """Returns the state after one update.

  The plateau's factor scales the update, which for every optimizer here is
  the same as scaling its learning rate. Leaves that `trainable`, a tree of bool
  in the shape of the parameters, does not mark are not touched at all.
  """
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  scale = optim.after(state.callbacks.rate_scale, grads)
  params = jax.tree.map(
      lambda p, u, moves: p + u * scale.astype(u.dtype) if moves else p,
      state.params, updates, trainable)
  return state.replace(
      step=state.step + 1, params=params, batch_stats=batch_stats,
      opt_state=opt_state, ema=update_ema(state, params, ema_decay))


def update_ema(state: TrainState, params: Any, decay: float) -> Any:
  """Returns the average of the weights after a step to `params`; {} if off.

  It ramps up as min(decay, (1 + t) / (10 + t)), so that it forgets the random
  start.
  """
  if not state.ema:
    return {}
  decay = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
  return optax.incremental_update(params, state.ema, 1.0 - decay)
