"""From the node `config.model` to a classifier, its inputs and its weights.

An encoder comes whole: architecture, the preparation that its input needs,
and a door for its weights. What is done with it is the task's business.
"""

import pathlib
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import pretrained
from vision_jax.models import autoencoders
from vision_jax.models import backbones
from vision_jax.models import cnn
from vision_jax.models import heads
from vision_jax.models import hierarchy
from vision_jax.models import imbalance_cnn
from vision_jax.models import inputs
from vision_jax.models import unet
from vision_jax.pretrained import locate

PUBLISHED = 'published'


class Classifier(NamedTuple):
  """A classifier and what belongs to its encoder.

  Attributes:
    module: The network.
    prepare: Images [B, H, W, C] in [0, 1] -> what the network takes.
    stages: Regular expressions of parameter paths, from input to output.
    load: variables -> variables with the encoder's weights of
      `config.model.weights`; it changes nothing where that is ''.
  """
  module: heads.Classifier
  prepare: Callable[[jax.Array], jax.Array]
  stages: tuple[str, ...]
  load: Callable[[dict[str, Any]], dict[str, Any]]


def make(
    config: ml_collections.ConfigDict,
    num_classes: int,
    *,
    parents: tuple[int, ...] = ()) -> Classifier:
  """Returns the classifier that the node `config.model` describes.

  Args:
    config: The node.
    num_classes: Number of classes; 0 ends before the logits.
    parents: The parent of each class, for a hierarchical head; () = a plain
      one.

  Raises:
    ConfigError: For an unknown network or input range, or a wrong head.
  """
  plain = {
      'unet': _unet, 'imbalance_cnn': _imbalance_cnn, 'cnn': _cnn,
      'dense_autoencoder': _dense_autoencoder,
      'conv_autoencoder': _conv_autoencoder}
  names = (*plain, *backbones.NAMES)
  config_lib.choose('model.name', config.name, dict.fromkeys(names))
  try:
    heads.parse_specs(config.head)
  except ValueError as error:
    raise config_lib.ConfigError(f'config.model.head: {error}.') from error
  if config.name in backbones.NAMES:
    found = _backbone(config, num_classes)
  else:
    found = _plain(config, plain[config.name](config, num_classes))
  if not parents:
    return found
  head = hierarchy.HierarchicalHead(
      parents, config.head, jnp.dtype(config.dtype))
  return found._replace(module=found.module.clone(head=head))


def _plain(config, module) -> Classifier:
  """A network of a study: its input range is the config's to choose."""
  if config.remat:
    raise config_lib.ConfigError(
        f'config.model.remat is for backbones, and {config.name!r} is none: '
        'set it to False.')
  return Classifier(
      module=module,
      prepare=config_lib.choose('model.input', config.input, inputs.RANGES),
      stages=('^encoder/',),
      load=lambda variables: _load_run(config.weights, variables))


def frozen_pattern(
    config: ml_collections.ConfigDict, stages: tuple[str, ...]) -> str:
  """Returns the regular expression of all that stays fixed; '' for nothing.

  Raises:
    ConfigError: If more stages are to be frozen than there are.
  """
  if not 0 <= config.frozen_stages <= len(stages):
    raise config_lib.ConfigError(
        f'config.model.frozen_stages={config.frozen_stages}, but the encoder '
        f'has {len(stages)}.')
  return '|'.join(filter(
      None, (config.frozen, *stages[:config.frozen_stages])))


def resting_pattern(
    config: ml_collections.ConfigDict, pattern: str, trainable) -> str:
  """Returns the regular expression of what rests while the others train.

  Dropout and BatchNorm have paths of their own, which a pattern of weights may
  miss: where no leaf of the encoder moves, all of it rests.

  Args:
    config: The node `config.model`.
    pattern: Of all that stays fixed.
    trainable: Tree of bool in the shape of the parameters, 'encoder' among
      them.

  Raises:
    ConfigError: For an unknown `frozen_mode`.
  """
  rests = config_lib.choose('model.frozen_mode', config.frozen_mode, {
      'eval': pattern, 'train': ''})
  if not rests or any(jax.tree.leaves(trainable['encoder'])):
    return rests
  return f'{rests}|^encoder/'


def _unet(config, num_classes):
  config_lib.choose(
      'model.variant', config.variant, dict.fromkeys(unet.VARIANTS))
  dtype = jnp.dtype(config.dtype)
  encoder = unet.Encoder(
      tuple(config.features), config.dropout, config.variant, dtype)
  return heads.Classifier(encoder, heads.Head(num_classes, config.head, dtype))


def _cnn(config, num_classes):
  dtype = jnp.dtype(config.dtype)
  return heads.Classifier(
      cnn.Encoder(dtype=dtype), heads.Head(num_classes, config.head, dtype))


def _dense_autoencoder(config, num_classes):
  dtype = jnp.dtype(config.dtype)
  return heads.Classifier(
      autoencoders.DenseEncoder(tuple(config.features), dtype),
      heads.Head(num_classes, config.head, dtype))


def _conv_autoencoder(config, num_classes):
  dtype = jnp.dtype(config.dtype)
  return heads.Classifier(
      autoencoders.ConvEncoder(tuple(config.features), dtype),
      heads.Head(num_classes, config.head, dtype))


def _imbalance_cnn(config, num_classes):
  batch_norm = config_lib.choose('model.variant', config.variant, {
      'plain': False, 'normalized': True})
  return imbalance_cnn.make(
      num_classes, head=config.head, conv3_padding=config.conv3_padding,
      batch_norm=batch_norm, dtype=jnp.dtype(config.dtype))


def _backbone(config, num_classes) -> Classifier:
  dtype = jnp.dtype(config.dtype)
  spec = backbones.build(config.name, dtype=dtype, remat=config.remat)
  # A flattening head wants the map; for the others the backbone pools itself.
  level = tuple(spec.stages)[-1] if config.head[0] == 'flatten' else ''
  module = heads.Classifier(
      heads.Pooled(spec.module, level),
      heads.Head(num_classes, config.head, dtype))
  def load(variables):
    return _load_backbone(config.weights, variables, spec)
  stages = tuple(f'^encoder/backbone/(?:{stage})'
                 for stage in spec.stages.values())
  return Classifier(module, spec.preprocess, stages, load)


def _load_run(weights: str, variables):
  """Takes the encoder, parameters and statistics, of another run."""
  if not weights:
    return variables
  donor = checkpoint.load_weights(weights)
  return {name: checkpoint.transfer(
      tree, donor[name], module='encoder', source=f'{weights}/{name}')
          if 'encoder' in tree else tree for name, tree in variables.items()}


def _load_backbone(weights: str, variables, spec):
  """Takes the encoder of a run, of a weight file or of its publisher's."""
  if not weights or (pathlib.Path(weights) / 'weights').is_dir():
    return _load_run(weights, variables)
  kind = 'notop' if 'notop' in spec.weights else 'top'
  try:
    path = locate.find(
        spec.weights[kind], path='' if weights == PUBLISHED else weights)
    inner = {name: tree['encoder']['backbone']
             for name, tree in variables.items() if 'encoder' in tree}
    loaded = pretrained.load(spec, path, inner)
  except (FileNotFoundError, ValueError) as error:
    raise config_lib.ConfigError(
        f'config.model.weights={weights!r}: {error}') from error
  return {
      name: {**tree, 'encoder': {'backbone': loaded[name]}}
      if name in loaded else tree for name, tree in variables.items()}
