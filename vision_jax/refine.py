"""Remedies for a finished classifier: config.train.refine by name.

Computes the features that the last layer takes, hands them to decoupled.py
and puts the new layer into the state, which is then tested and exported like
any other. Trains no network.
"""

import jax
import numpy as np

from vision_jax import config as config_lib
from vision_jax import decoupled
from vision_jax import resampling
from vision_jax import runs
from vision_jax import task as task_lib
from vision_jax.data import batches
from vision_jax.data import joined

_VALIDATED = ('thresholds', 'tau_norm')
NAMES = ('none', 'post_hoc', 'refit', 'crt', *_VALIDATED, *resampling.METHODS)


def apply(run: runs.Run, state: task_lib.TrainState) -> task_lib.TrainState:
  """Returns the state with the last layer that config.train.refine makes.

  'post_hoc' subtracts the log shares of the classes, 'thresholds' and
  'tau_norm' choose on the validation split, the others fit the layer anew on
  the labelled training examples, unaugmented. 'refit' does nothing else, and so
  shows how much of the others' gain is the fit and not the balance.

  Raises:
    ConfigError: See `check`.
  """
  check(run, state)
  name = run.config.train.refine
  if name == 'none':
    return state
  params = state.variables()['params']
  layer = decoupled.Layer(*(
      np.asarray(params['head']['logits'][leaf], np.float64)
      for leaf in ('kernel', 'bias')))
  split = 'validation' if name in _VALIDATED else run.config.train.split
  members = run.dataset.splits[split]
  members = members[run.dataset.labels[members] != joined.WITHHELD]
  features, labels = embed(run, state, members)
  new = make_layer(
      name, layer, features, labels, counts=run.info.class_counts,
      tau=run.config.loss.tau, seed=run.config.seed)
  logits = {leaf: np.asarray(value, np.float32) for leaf, value
            in zip(('kernel', 'bias'), new, strict=True)}
  params = {**params, 'head': {**params['head'], 'logits': logits}}
  return state.replace(params=runs.replicate(run, params), ema={})


def check(run: runs.Run, state: task_lib.TrainState) -> None:
  """Raises ConfigError where `apply` could not do what config.train.refine is.

  That is an unknown name, a task without a linear last layer, or a remedy that
  needs validation examples where there are none. The state of step 0 tells, so
  that it is known before a training.
  """
  name = config_lib.choose(
      'train.refine', run.config.train.refine, {name: name for name in NAMES})
  if name == 'none':
    return
  if run.task.embed is None:
    raise config_lib.ConfigError(
        f'config.train.refine={name!r} needs a classifier with one last layer; '
        f'config.task={run.config.task!r} has none to refine here.')
  if name in _VALIDATED and not len(run.dataset.splits['validation']):
    raise config_lib.ConfigError(
        f'config.train.refine={name!r} chooses on validation examples, and '
        'there are none; set config.data.validation_fraction or '
        'config.data.imbalance.test="balanced".')
  if 'bias' not in state.params['head']['logits']:
    raise config_lib.ConfigError(
        f'config.train.refine={name!r} makes a linear last layer; leave '
        f'{run.config.model.head[-1]!r} out of config.model.head.')


def make_layer(
    name: str, layer: decoupled.Layer, features: np.ndarray,
    labels: np.ndarray, *, counts, tau: float, seed: int) -> decoupled.Layer:
  """Returns the last layer that the remedy `name` makes of `layer`.

  Args:
    name: One of `NAMES` but 'none'.
    layer: The trained last layer.
    features: float [n, d], of training or validation examples (see `apply`).
    labels: int [n].
    counts: Training examples of each class.
    tau: Strength of 'post_hoc'.
    seed: Of what resampling draws.
  """
  if name == 'post_hoc':
    # Menon et al., 2021, arXiv:2007.07314, equation 9.
    shares = np.array(counts) / np.sum(counts)
    return layer._replace(bias=layer.bias - tau * np.log(shares))
  if name == 'thresholds':
    return decoupled.choose_thresholds(layer, features, labels)
  if name == 'tau_norm':
    return decoupled.choose_tau(layer, features, labels)
  if name in ('refit', 'crt'):
    return decoupled.retrain(
        features, labels, classes=len(counts), balanced=name == 'crt')
  return decoupled.resampled(
      features, labels, name, classes=len(counts), seed=seed)


def embed(
    run: runs.Run, state: task_lib.TrainState, members: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the features [n, d] and labels [n] of the rows `members`."""
  @jax.jit
  def step(state, arrays, inputs):
    return run.task.embed(state, run.store.gather(arrays, inputs))
  chunks = [
      np.asarray(step(state, run.store.arrays, inputs))[mask > 0]
      for inputs, mask in runs.stream(run, run.store, batches.eval_batches(
          members, run.config.train.eval_batch_size))]
  return (np.concatenate(chunks).astype(np.float64),
          run.dataset.labels[members])
