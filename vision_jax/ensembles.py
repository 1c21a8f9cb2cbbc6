"""Several finished classifiers as one: of their probabilities or weights.

Arrays and run folders in, arrays out; nothing is trained or written. Members
answer for the same examples in the same order; what they were trained with may
differ.
"""

from collections.abc import Sequence
import pathlib
from typing import Any

import jax
import numpy as np

from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import features
from vision_jax import runs

_STEPS = 500


def mix(members: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Returns the weighted mean [n, classes] of probabilities [m, n, classes].

  Raises:
    ValueError: The weights are not m non-negative numbers that add up to one.
  """
  weights = np.asarray(weights, np.float64)
  if (weights.shape != (len(members),) or weights.min() < 0
      or not np.isclose(weights.sum(), 1)):
    raise ValueError(
        f'weights {weights.tolist()} for {len(members)} members: one '
        'non-negative weight each is needed, together one')
  return np.einsum('m,mnc->nc', weights, np.asarray(members, np.float64))


def choose_weights(members: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Returns the weights [m] of the mean with the smallest log loss.

  Choose them on validation examples: on the members' training examples the
  most overfitted member wins. The objective is concave in the weights, and
  expectation maximisation for the proportions of a mixture climbs it without a
  step size. Source: Dempster, Laird and Rubin, 1977, section 4.3.

  Args:
    members: Probabilities [m, n, classes].
    labels: int [n].
  """
  truth = np.asarray(members, np.float64)[:, np.arange(len(labels)), labels]
  # A member that excludes the truth would otherwise divide zero by zero.
  truth = np.maximum(truth, np.finfo(np.float64).tiny)
  weights = np.full(len(members), 1 / len(members))
  for _ in range(_STEPS):
    share = weights[:, None] * truth
    weights = (share / share.sum(axis=0)).mean(axis=1)
  return weights / weights.sum()


def answers(
    folder: str | pathlib.Path,
    *,
    variables: dict[str, Any] | None = None,
    hide_context: bool = False,
    splits: Sequence[str] = ('validation', 'test'),
) -> dict[str, dict[str, np.ndarray]]:
  """Returns a finished run's outputs on the examples of some splits.

  Args:
    folder: The run folder.
    variables: Weights to use instead of the run's, such as
      `average_weights`.
    hide_context: Whether the examples come without their metadata.
    splits: Names of splits that have examples.

  Raises:
    ConfigError: The run is not finished, or a split has no example.
  """
  # The run's own weights take the place of the pre-trained ones.
  config = config_lib.replace(
      checkpoint.read_config(folder), model__weights='')
  run = runs.build(config)
  for split in splits:
    if not len(run.dataset.splits[split]):
      raise config_lib.ConfigError(
          f'The run {folder} has no {split} examples. Leave {split!r} out of '
          f'`splits`, or train a run with config.data.{split}_fraction above '
          '0.')
  state = runs.load_state(run.task, config, folder)
  if variables is not None:
    state = state.replace(**variables)
  state = runs.replicate(run, state)
  store = features.make_evaluation_store(run, state, splits)
  if hide_context:
    gather = store.gather
    store = store._replace(gather=lambda arrays, inputs: {
        name: value for name, value in gather(arrays, inputs).items()
        if name != 'context'})
  step = runs.make_eval_step(run, store)
  return {split: runs.evaluate(run, state, split, store, step)
          for split in splits}


def average_weights(folders: Sequence[str | pathlib.Path]) -> dict[str, Any]:
  """Returns the mean of the exported weights of runs of one architecture.

  It is a classifier of its own, as cheap as one member; it is any good only
  where the members lie in one basin, that is, where they started from the same
  weights. Source: Wortsman et al., 2022, arXiv:2203.05482 (a uniform soup).

  Raises:
    ConfigError: The runs have different weights, or other data or seeds.
  """
  first = checkpoint.read_config(folders[0])
  for folder in folders[1:]:
    other = checkpoint.read_config(folder)
    for field in ('seed', 'data', 'model', 'taxonomy'):
      if first[field] != other[field]:
        raise config_lib.ConfigError(
            f'The weights of {folders[0]} and {folder} cannot be averaged: '
            f'their config.{field} differs, so they have no common start.')
  trees = [checkpoint.load_weights(folder) for folder in folders]
  return jax.tree.map(
      lambda *leaves: np.mean(leaves, axis=0, dtype=np.float64).astype(
          leaves[0].dtype), *trees)
