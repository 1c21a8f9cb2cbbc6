"""Runs a wholly frozen encoder once and trains the head from its features.

The features of the split members, and of each fixed augmented view of the
training images, take the place of the images behind the same interface.
Training from them equals training through the encoder.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vision_jax import runs
from vision_jax import task as task_lib
from vision_jax.data import batches


class Stores(NamedTuple):
  """Where batches come from.

  Attributes:
    evaluation: Unaugmented.
    training: One store, or one for each cached view.
  """
  evaluation: batches.Store
  training: tuple[batches.Store, ...]


def make_stores(run: runs.Run, state: task_lib.TrainState) -> Stores:
  """Returns stores of features where they can be cached, else of images.

  They can where the task's encoder is wholly frozen and augmentation is off
  or a fixed number of views; mixing images is never fixed.
  """
  config = run.config
  augments = any(
      value for name, value in config.augment.items() if name != 'views')
  mixes = config.augment.mixup_alpha or config.augment.cutmix_alpha
  fixed = not augments or (config.augment.views and not mixes)
  if not (config.train.cache_features and run.task.encode and fixed):
    return Stores(run.store, (run.store,))
  splits = run.dataset.splits
  used = np.sort(np.concatenate(
      [splits[name] for name in (config.train.split, 'validation', 'test')]))
  evaluation = _encode(run, state, used, view=None)
  if not augments:
    return Stores(evaluation, (evaluation,))
  views = range(config.augment.views)
  return Stores(evaluation, tuple(
      _encode(run, state, splits[config.train.split], view=view) for view in views))


def _encode(run, state, members, *, view) -> batches.Store:
  """Returns a store of the features of `members`, augmented as `view`."""

  @jax.jit
  def encode(state, arrays, inputs):
    batch = run.store.gather(arrays, inputs)
    if view is not None:
      batch['image'] = runs.augment_images(run, batch, view)
    return run.task.encode(state, batch)

  index = batches.eval_batches(members, run.config.train.eval_batch_size)
  chunks = [
      encode(state, run.store.arrays, inputs)[:int(mask.sum())]
      for inputs, mask in runs.stream(run, run.store, index)]
  position = np.full(len(run.dataset.labels), -1, np.int32)
  position[members] = np.arange(len(members))
  arrays = runs.replicate(run, {
      'features': jnp.concatenate(chunks), 'position': position,
      'label': run.dataset.labels})
  return run.store._replace(
      arrays=arrays, gather=_gather,
      feed=lambda rows: {'id': rows})


def _gather(arrays, inputs):
  rows = inputs['id']
  return {
      'features': arrays['features'][arrays['position'][rows]],
      'label': arrays['label'][rows], 'id': rows}
