"""Runs a wholly frozen encoder once and trains the head from its features.

The features of the split members, and of each fixed augmented view of the
training images, take the place of the images behind the same interface.
Training from them equals training through the encoder, and a step that does not
need the encoder's weights does not carry them through its guard, its averages
and its checkpoints either.
"""

import hashlib
from typing import NamedTuple

import jax
import numpy as np

from vision_jax import runs
from vision_jax import task as task_lib
from vision_jax.data import batches
from vision_jax.data import cache


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
  if not (_cacheable(run) and fixed):
    return Stores(run.store, (run.store,))
  if not augments:
    evaluation = make_evaluation_store(
        run, state, (config.train.split, 'validation', 'test'))
    return Stores(evaluation, (evaluation,))
  # No epoch sees a training image as it is.
  evaluation = make_evaluation_store(run, state, ('validation', 'test'))
  members = run.dataset.splits[config.train.split]
  return Stores(evaluation, tuple(
      _encode(run, state, members, view=view)
      for view in range(config.augment.views)))


def make_evaluation_store(
    run: runs.Run, state: task_lib.TrainState, splits: tuple[str, ...],
) -> batches.Store:
  """Returns a store of the unaugmented features of `splits`, else of images."""
  if not _cacheable(run):
    return run.store
  members = np.concatenate([run.dataset.splits[name] for name in splits])
  return _encode(run, state, np.sort(members), view=None)


def _cacheable(run: runs.Run) -> bool:
  return bool(run.config.train.cache_features and run.task.encode)


def detach(
    run: runs.Run, state: task_lib.TrainState, stores: Stores,
) -> task_lib.TrainState:
  """Returns a state of step 0 without the encoder whose features are cached.

  The counters of its callbacks stay; it changes nothing where batches are
  images.
  """
  if 'features' not in stores.training[0].arrays:
    return state
  rest = run.task.start({
      name: {k: v for k, v in getattr(state, name).items() if k != 'encoder'}
      for name in ('params', 'batch_stats')})
  return runs.replicate(run, rest.replace(callbacks=state.callbacks))


def attach(
    state: task_lib.TrainState, whole: task_lib.TrainState,
) -> task_lib.TrainState:
  """Returns a trained state with the encoder of `whole` where it has none.

  The optimizer's state stays that of the rest: the encoder never moved.
  """
  return state.replace(
      params={**whole.params, **state.params},
      batch_stats={**whole.batch_stats, **state.batch_stats},
      ema={**whole.params, **state.ema} if state.ema else {},
      best={name: {**getattr(whole, name), **tree}
            for name, tree in state.best.items()})


def _encode(run, state, members, *, view) -> batches.Store:
  """Returns a store of the features of `members`, augmented as `view`.

  They lie in the cache folder, one file for all that follows from the same
  encoder: only the images that no run has shown it yet are computed.
  """
  path = cache.folder_of(run.config.data) / (
      f'features-{_digest(run, state, view)}.safetensors')
  names, kept = [], None
  if path.is_file():
    names, kept = cache.kept(path)
  wanted = _names(run, members, view)
  place = {name: i for i, name in enumerate(names)}
  new = [i for i, name in enumerate(wanted) if name not in place]
  if new:
    computed = _compute(run, state, members[new], view)
    kept = computed if kept is None else np.concatenate([kept, computed])
    names += [wanted[i] for i in new]
    cache.keep(path, names, kept)
    place = {name: i for i, name in enumerate(names)}
  rows = [place[name] for name in wanted]
  if rows != list(range(len(kept))):
    kept = kept[rows]  # A copy, which may be large.
  position = np.full(len(run.dataset.labels), -1, np.int32)
  position[members] = np.arange(len(members))
  arrays = runs.replicate(run, {
      'features': kept,
      'position': position,
      **batches.by_row(run.store.arrays, slice(None))})
  def feed(rows):
    if position[rows].min() < 0:
      raise ValueError('rows whose features this store does not hold')
    return {'id': rows}
  return run.store._replace(
      arrays=arrays, gather=_gather, feed=feed)


def _names(run, members, view) -> list[str]:
  """Names images by content and what else they depend on: mask and row."""
  names = [run.dataset.manifest[row]['sha256'] for row in members]
  if run.config.data.filter == 'masks':  # Which mask, the id says.
    names = [f'{name}-{run.dataset.ids[row]}'
             for name, row in zip(names, members, strict=True)]
  if view is None:
    return names
  return [f'{name}-{row}' for name, row in zip(names, members, strict=True)]


def _compute(run, state, members, view) -> np.ndarray:
  """Runs the encoder over `members`; float32 [n, ...] in their order."""

  @jax.jit
  def show(arrays, inputs, view):
    batch = run.store.gather(arrays, inputs)
    if view is not None:
      batch['image'] = runs.augment_images(run, batch, view)
    return batch

  # Apart, so that the encoder compiles once for all views and for none.
  encode = jax.jit(run.task.encode)
  view = None if view is None else np.int32(view)
  index = batches.eval_batches(members, run.config.train.eval_batch_size)
  chunks = [
      np.asarray(encode(state, show(run.store.arrays, inputs, view)))[
          :int(mask.sum())]
      for inputs, mask in runs.stream(run, run.store, index)]
  return np.concatenate(chunks)


def _digest(run, state, view) -> str:
  """Names an encoder: its weights, the preparation of images, the view."""
  config = run.config
  prepared = {name: config.data[name]
              for name in ('image_size', 'channels', 'resize')}
  # Of the head only the pooling matters; the weights are hashed below.
  other = ('head', 'weights', 'frozen', 'frozen_stages')
  model = {name: value for name, value in config.model.items()
           if name not in other}
  settings = [prepared, model, config.model.head[0]]
  if view is not None:
    settings += [view, config.seed, config.augment.to_dict()]
  # Named only where they act: what was cached without them stays valid.
  if config.published.switches:
    settings.append(config.published.to_dict())
  if config.data.filter != 'none':
    masks = config.data.masks
    settings += [config.data.filter, masks and cache.mask_stamps(masks)]
  digest = hashlib.sha256(repr(settings).encode())
  for tree in (state.params, state.batch_stats):
    for leaf in jax.tree.leaves(tree['encoder'] if 'encoder' in tree else {}):
      digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()[:32]


def _gather(arrays, inputs):
  rows = inputs['id']
  return {
      'features': arrays['features'][arrays['position'][rows]],
      'id': rows, **batches.by_row(arrays, rows)}
