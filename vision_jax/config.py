"""Every field a run can have, with its type, its default and its meaning.

`base()` is the whole vocabulary. A config file returns it with a few deltas,
read from its argument by `parse`. The result is locked: a typo is an error
that names the nearest field. This file holds values only; what they do lives
beside the code that reads them.
"""

import difflib
import re
import types

import ml_collections

from vision_jax import data_config
from vision_jax import task_config

PROTOCOLS = ('sound', 'published', 'modern')
_DTYPES = ('float32', 'bfloat16', 'float16')


class ConfigError(ValueError):
  """A wrong config; the message names the field and what would be right."""


def base() -> ml_collections.ConfigDict:
  """Returns the locked default config: a small U-Net classifier on digits."""
  config = ml_collections.ConfigDict()
  config.name = 'run'  # Stem of the run folder.
  config.seed = 0  # Every random number of a run follows from it.
  config.protocol = 'sound'  # One of PROTOCOLS; recorded, never branched on.
  config.task = 'classification'  # Module of vision_jax.tasks.
  config.data = data_config.data()
  config.augment = data_config.augment()
  config.model = _model()
  config.optimizer = _optimizer()
  config.train = _train()
  config.loss = _loss()
  config.callbacks = _callbacks()
  config.checkpoint = ml_collections.ConfigDict(dict(
      every_epochs=1,  # A checkpoint every so many epochs; 0 = at the end.
      every_steps=0,  # And every so many steps inside an epoch; 0 = never.
      keep_last=1,  # Most recent checkpoints kept.
      keep_best=0,  # Best checkpoints by the monitor kept beside them.
  ))
  config.report = ml_collections.ConfigDict(dict(
      progress=True,  # A progress bar on standard error.
      tensorboard=False,  # Event files in the run folder (tensorboardX).
      wandb=False,  # Weights & Biases; offline where there is no network.
      keras_log=False,  # keras_log.csv, with the columns of Keras' CSVLogger.
      figures=True,  # PNG files in the run folder.
      guard=True,  # Refuse test predictions that look misaligned.
  ))
  config.runtime = ml_collections.ConfigDict(dict(
      devices=0,  # Local devices to use; 0 = all.
      compilation_cache=True,  # Keep compiled programs between runs.
      # Training steps, from 1, of which the run folder gets a profiler trace.
      profile_steps=(),
  ))
  config.gan = task_config.gan()
  config.noise = task_config.noise()
  config.vae = task_config.vae()
  config.semi = task_config.semi(
      weak=data_config.augment(), strong=data_config.augment())
  config.taxonomy = task_config.taxonomy()
  config.contrastive = task_config.contrastive(views=data_config.augment())
  config.published = ml_collections.ConfigDict(dict(
      switches=(),  # Names of the mistakes in vision_jax.published; () = none.
      callbacks_from='',  # shared_callbacks: run folder of the fit before.
      # foreign_preprocessing: the backbone whose preparation all get.
      preprocess_of='mobilenet_v2',
  ))
  return config.lock()


def _model() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(dict(
      name='unet',  # Family: unet, imbalance_cnn, cnn or a backbone.
      features=(64, 128, 256),  # unet: channels of its levels.
      # unet: plain or residual; imbalance_cnn: plain or normalized.
      variant='plain',
      dropout=0.3,  # unet: after each encoder level.
      skip='add',  # unet: add, concat or none.
      output='sigmoid',  # unet: sigmoid, tanh or linear.
      target='unit',  # Reconstruction target: unit [0, 1], signed [-1, 1].
      # Network input: unit [0, 1], signed [-1, 1] or pixels [-127.5, 127.5].
      input='signed',
      conv3_padding=1,  # imbalance_cnn: of the third convolution, 1 or 2.
      head=('flatten', 'dense:512'),  # Layers before the logits.
      # Encoder weights: a run folder, or the config to pre-train them with
      # (configs/autoencoder.py:data=...); '' = random.
      weights='',
      frozen='',  # Regex on parameter paths that stay fixed; '' = none.
      frozen_stages=0,  # First stages of the encoder that stay fixed, too.
      # eval, or train: dropout and BatchNorm act in what is frozen.
      frozen_mode='eval',
      dtype='float32',  # Of computation; parameters stay float32.
      # Backbones: compute the inside of a block again for the gradient instead
      # of keeping it, which takes less memory and more time.
      remat=False,
  ))


def _optimizer() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(dict(
      name='adam',  # adam, adamw, adamax, sgd.
      learning_rate=1e-3,
      b1=0.9,  # Momentum of sgd, first moment of the others.
      b2=0.999,
      eps=1e-8,
      weight_decay=0.0,  # sgd: L2 in the gradient; adamw: decoupled.
      schedule='constant',  # constant, cosine or step.
      warmup_epochs=0.0,
      step_epochs=10,  # step: epochs between falls.
      step_factor=0.1,  # step: factor of a fall.
      clip_norm=0.0,  # Global norm of gradients; 0 = off.
      accumulate=1,  # Batches whose gradients make one update.
      layer_decay=1.0,  # Factor of the rate a stage further from the head.
      unfreeze_epochs=0.0,  # Epochs before the next deeper stage moves, too.
      ema_decay=0.0,  # Moving average of weights, used to evaluate; 0 = off.
  ))


def _train() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(dict(
      # Examples to train on: train, unlabelled, or both as all_train.
      split='train',
      epochs=20,
      batch_size=64,
      eval_batch_size=128,
      remainder='pad',  # Last batch: pad (masked) or drop.
      max_steps=0,  # Stop early for a smoke test; 0 = off.
      cache_features=True,  # Run a wholly frozen encoder once.
      label_smoothing=0.0,
      # Which examples an epoch visits: shuffled (each once), over, under,
      # square_root, class_aware, progressive or, with all_train,
      # mixed:<labelled>:<unlabelled of a group> (data/samplers.py).
      sampler='shuffled',
      # What is done to the finished classifier's last layer: none, post_hoc,
      # thresholds, tau_norm, crt, smote, ... (refine.py).
      refine='none',
  ))


def _loss() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(dict(
      # cross_entropy, focal, ldam, logit_adjusted or balanced_softmax.
      name='cross_entropy',
      weights='none',  # Of classes: none, inverse or effective.
      reduction='weights',  # Mean of weighted losses: examples or weights.
      defer_epochs=0,  # Epochs before the class weights act.
      beta=0.999,  # effective: nearer to 1 is nearer to inverse.
      gamma=2.0,  # focal: its exponent.
      l2=0.0,  # Times the sum of squares of trainable kernels, added to it.
      margin=0.5,  # ldam: margin of the rarest class.
      scale=1.0,  # ldam: factor of the logits; 30 suits cosines.
      tau=1.0,  # logit_adjusted and refine=post_hoc: strength.
  ))


def _callbacks() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(dict(
      monitor='validation_loss',  # <split>_<metric>, an epoch aggregate.
      mode='min',  # min or max.
      patience=0,  # Early stopping, epochs; 0 = off.
      min_delta=0.0,
      restore_best=True,  # Test the best weights, not the last.
      plateau_patience=0,  # Reduce the rate on a plateau; 0 = off.
      plateau_factor=0.5,
      plateau_min_delta=1e-4,
      plateau_cooldown=0,
      plateau_min_scale=0.0,  # Smallest multiple of the scheduled rate.
  ))


def parse(arg: str | None, **allowed) -> types.SimpleNamespace:
  """Reads a config file's argument `key=value,key=value`.

  Args:
    arg: The text after the colon of `--config=file.py:text`, or None.
    **allowed: For each key either a tuple of choices, the first of which is
      the default, or a default value whose type the given value must have.

  Returns:
    A namespace with every allowed key.

  Raises:
    ConfigError: For an unknown key, a value that is no choice or has the wrong
      type, or a part that is not key=value; it lists what is allowed.
  """
  values = {
      key: rule[0] if isinstance(rule, tuple) else rule
      for key, rule in allowed.items()
  }
  seen = set()
  for part in filter(None, (arg or '').split(',')):
    key, equals, text = (piece.strip() for piece in part.partition('='))
    if not equals:
      raise ConfigError(f'Config argument {part!r} is not key=value.')
    if key not in allowed:
      raise ConfigError(
          f'Unknown config argument {key!r}{nearest(key, allowed)}. '
          f'Allowed: {", ".join(allowed)}.')
    if key in seen:
      raise ConfigError(f'Config argument {key!r} is given twice.')
    seen.add(key)
    values[key] = _value(key, text, allowed[key])
  return types.SimpleNamespace(**values)


def _value(key: str, text: str, rule):
  if isinstance(rule, tuple):
    if text not in rule:
      raise ConfigError(
          f'Config argument {key}={text!r} is no choice'
          f'{nearest(text, rule)}. Allowed: {", ".join(rule)}.')
    return text
  try:
    return type(rule)(text)
  except ValueError as error:
    raise ConfigError(
        f'Config argument {key}={text!r} must be a {type(rule).__name__}, '
        f'for example {rule!r}.') from error


def nearest(word: str, words) -> str:
  """Returns " (did you mean 'x'?)" for the closest of `words`, or ''."""
  close = difflib.get_close_matches(word, list(words), n=1)
  return f' (did you mean {close[0]!r}?)' if close else ''


def choose(field: str, value: str, choices):
  """Returns `choices[value]`; for a wrong value, an error with the choices.

  Args:
    field: Name of the config field, for the message.
    value: The field's value.
    choices: A mapping from allowed values to results.

  Raises:
    ConfigError: If `value` is not among `choices`.
  """
  if value not in choices:
    raise ConfigError(
        f'config.{field}={value!r} is unknown{nearest(value, choices)}. '
        f'Allowed: {", ".join(choices)}.')
  return choices[value]


def check(config: ml_collections.ConfigDict) -> None:
  """Raises ConfigError for a wrong value that no task would name."""
  choose('protocol', config.protocol, dict.fromkeys(PROTOCOLS))
  choose('model.dtype', config.model.dtype, dict.fromkeys(_DTYPES))
  if config.seed < 0:
    raise ConfigError(f'config.seed={config.seed} must not be negative.')
  for name in ('batch_size', 'eval_batch_size'):
    if config.train[name] < 1:
      raise ConfigError(
          f'config.train.{name}={config.train[name]} must be positive.')
  try:
    re.compile(config.model.frozen)
  except re.error as error:
    raise ConfigError(
        f'config.model.frozen={config.model.frozen!r} is no regular '
        f'expression: {error}.') from error


def refuse_ignored(
    config: ml_collections.ConfigDict, prefixes: tuple[str, ...], task: str,
) -> None:
  """Raises ConfigError for a changed field that a task never reads.

  Args:
    config: The whole config.
    prefixes: Of the fields' names, such as 'model.weights' or 'loss.'.
    task: The task's name, for the message.
  """
  defaults = dict(_fields(base()))
  for name, value in _fields(config):
    if name.startswith(prefixes) and value != defaults[name]:
      raise ConfigError(
          f'config.{name}={value!r} has no effect with config.task={task!r}: '
          f'leave it at {defaults[name]!r}.')


def _fields(node: ml_collections.ConfigDict, prefix: str = ''):
  """Yields (name, value) of every field, named as a.b.c."""
  for name, value in node.items():
    if isinstance(value, ml_collections.ConfigDict):
      yield from _fields(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}', value


def replace(
    config: ml_collections.ConfigDict, **fields) -> ml_collections.ConfigDict:
  """Returns a locked copy with other values, given as a__b=value for a.b."""
  copy = config.copy_and_resolve_references()
  copy.update_from_flattened_dict(
      {name.replace('__', '.'): value for name, value in fields.items()})
  return copy.lock()
