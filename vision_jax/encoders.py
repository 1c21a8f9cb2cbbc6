"""Features of every image of a data set, from any encoder of the project.

An encoder is named by its source: `pixels`, the folder of a finished run, or a
config file with its argument, which stands for that config's encoder before
any training of its own (published, pre-trained or random weights). What the
features are worth is measured in `analysis/latent.py`.
"""

import pathlib
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from vision_jax import checkpoint
from vision_jax import classifiers
from vision_jax import config as config_lib
from vision_jax import features
from vision_jax import loop
from vision_jax import pretraining
from vision_jax import runs
from vision_jax.data import batches
from vision_jax.data import pipeline

PIXELS = 'pixels'


class Encoded(NamedTuple):
  """A data set of n images through one encoder.

  Attributes:
    features: float32 [n, d].
    labels: int [n], indices into `class_names`.
    splits: {name: rows}, as `pipeline.Dataset` has them.
    ids: n names, equal for equal images.
    class_names: Names in the order of the labels.
  """
  features: np.ndarray
  labels: np.ndarray
  splits: dict[str, np.ndarray]
  ids: tuple[str, ...]
  class_names: tuple[str, ...]


def encode(
    source: str, data: ml_collections.ConfigDict) -> Encoded:
  """Returns the features of all images, with all labels.

  A classifier's run gives what its last layer takes; any other source gives
  its encoder's map, pooled as the first entry of `config.model.head` says.

  Args:
    source: As in this file's docstring.
    data: The node `config.data`; a config keeps its own way of bringing images
      to a size, a run all but the place and the seed of the split.

  Raises:
    ConfigError: If the source is neither, has no encoder, or was trained on
      what `data` has in its test split.
  """
  if source == PIXELS:
    data = config_lib.replace(data, label_fraction=1.0)
    dataset = pipeline.load(data)
    pixels = np.asarray(dataset.images, np.float32) / 255
    return _encoded(dataset, pixels.reshape(len(pixels), -1))
  config, folder = _open(source, data)
  for field in ('root', 'cache_dir', 'split_seed'):
    config.data[field] = data[field]
  # Every label is known here, and nothing is trained: whatever sampled or
  # joined labelled and unlabelled examples has nothing to do.
  config.data.label_fraction = 1.0
  config.train.update(split='train', sampler='shuffled')
  if config.task == 'semi_supervised':
    config.task = 'classification'
  run = runs.build(config)
  pretraining.check_unseen(folder or config.model.weights, run.dataset)
  state = (runs.load_state(run.task, run.config, folder) if folder
           else runs.init_state(run))
  return _encoded(run.dataset, _features(run, runs.replicate(run, state)))


def _open(source: str, data):
  """Returns the config of a source, and the run folder or None."""
  if pathlib.Path(source).is_dir():
    # The run's own weights take the place of the pre-trained ones.
    return config_lib.replace(
        checkpoint.read_config(source), model__weights=''), source
  asking = config_lib.base()
  asking.data.update(data)
  config = pretraining.config_of(
      config_lib.replace(asking, model__weights=source))
  config = pretraining.resolve(
      config, loop.train, root=pathlib.Path('runs') / 'pretrained')
  return config_lib.replace(config, model__head=config.model.head[:1]), None


def _features(run: runs.Run, state) -> np.ndarray:
  """Runs the encoder over all images; float32 [n, d]."""
  # Of all images, those in no split included.
  rows = np.arange(len(run.dataset.labels))
  whole = run._replace(dataset=run.dataset._replace(splits={'all': rows}))
  # A frozen encoder ran before, or runs once for all that come after.
  store = features.make_evaluation_store(whole, state, ('all',))
  embed = (_head(run) if 'features' in store.arrays
           else run.task.embed or _encoder(run))
  @jax.jit
  def step(state, arrays, inputs):
    found = embed(state, store.gather(arrays, inputs))
    return found.reshape(len(found), -1).astype(np.float32)
  index = batches.eval_batches(rows, run.config.train.eval_batch_size)
  return np.concatenate([
      np.asarray(step(state, store.arrays, inputs))[:int(mask.sum())]
      for inputs, mask in runs.stream(run, store, index)])


def _encoder(run: runs.Run):
  """Returns (state, batch) -> pooled map, for a task without a last layer."""
  model = config_lib.replace(
      run.config, model__head=run.config.model.head[:1]).model
  encoder = classifiers.make(model, 0)
  return lambda state, batch: encoder.module.apply(
      state.variables(), encoder.prepare(batch['image']), train=False)


def _head(run: runs.Run):
  """Returns (state, batch of cached maps) -> what the last layer takes."""
  module = classifiers.make(run.config.model, 0).module
  return lambda state, batch: module.apply(
      state.variables(), batch['features'], train=False, method='classify')


def _encoded(dataset: pipeline.Dataset, found: np.ndarray) -> Encoded:
  return Encoded(found, dataset.labels, dataset.splits, dataset.ids,
                 dataset.class_names)
