"""Study 4: families of rare species from a table of images, long-tailed.

    python -m vision_jax.main --config=configs/rare_species.py
    python -m vision_jax.main --mode=describe \
        --config=configs/rare_species.py:data=rare_species,model=mobilenet_v2 \
        --config.data.root=../shared/data
    python -m vision_jax.main --config.data.root=../shared/data --config=\
configs/rare_species.py:data=caltech_families,model=efficientnet_lite0

Arguments: data=digits|procedural|rare_species|caltech_families; model=cnn or a
name of vision_jax/models/backbones.py; mode=study (what its authors trained:
cnn and efficientnet_b0 wholly, the others frozen), frozen or finetune;
taxonomy=none|hierarchical|fusion|both; protocol. Class names are paths such as
animalia/chordata/felidae. `published` gives every backbone MobileNetV2's
preprocessing and one frozen variant of each image; `modern` replaces the
recipe. A frozen backbone runs once: augmentation is then a few fixed views.

Expected on two CPU cores: digits with the cnn, test accuracy .9 in 20 seconds;
caltech_families with the frozen EfficientNet-Lite0,
test accuracy .942 [.904, .965] (n = 240). From a cold start 13 trainings take
295 seconds (experiments/rare_species.py), of which decoding and the backbone
take most.
"""

from vision_jax import config as config_lib
from vision_jax import datasets
from vision_jax.models import backbones

_EMBEDDED = ('digits', 'procedural')
_DATA = (*_EMBEDDED, 'rare_species', 'caltech_families')
_WHOLE = ('cnn', 'efficientnet_b0')
_FROZEN_HEAD = ('average', 'batch_norm', 'dense:512', 'dropout:0.5',
                'dense:256', 'dropout:0.3')
_HEADS = {
    'cnn': ('flatten', 'dense:128', 'dropout:0.3'),
    'efficientnet_b0': ('average', 'dropout:0.5', 'dense:512', 'dropout:0.3'),
}
_RATES = {'efficientnet_b0': 1e-4}


def get_config(arg=None):
  """Returns the config for `arg`."""
  args = config_lib.parse(
      arg, data=_DATA, model=('cnn', *backbones.NAMES),
      mode=('study', 'frozen', 'finetune'),
      taxonomy=('none', 'hierarchical', 'fusion', 'both'),
      protocol=config_lib.PROTOCOLS)
  frozen = args.mode == 'frozen' or (
      args.mode == 'study' and args.model not in _WHOLE)
  if frozen and args.model == 'cnn':
    raise config_lib.ConfigError('model=cnn has no weights to freeze.')
  config = config_lib.base()
  config.name = f'rare_species-{args.data}-{args.model}-{args.protocol}'
  config.protocol = args.protocol
  _set_data(config, args)
  _set_recipe(config, args.model, frozen)
  config.taxonomy.hierarchical = args.taxonomy in ('hierarchical', 'both')
  config.taxonomy.fusion = args.taxonomy in ('fusion', 'both')
  if args.protocol == 'published':
    # Stored augmented, under one name for all its variants, and never as it is.
    config.augment.views = 1
    config.train.epochs = min(config.train.epochs, 10)
    config.published.switches = ('foreign_preprocessing',)
  elif args.protocol == 'modern':
    _modernise(config, frozen)
  if args.data in _EMBEDDED:
    config.train.epochs = 6
    config.augment.flip_horizontal = False  # A mirrored digit is none.
  return config


def _set_data(config, args):
  datasets.use(config, args.data)
  # ceil(.1 n) to test, then ceil(.2) of the rest to validation: 1,199, 2,157
  # and 8,627 of 11,983.
  config.data.test_fraction = 0.1
  config.data.validation_fraction = 0.2
  config.data.validation_rounding = 'total'
  config.data.channels = 3
  config.data.image_size = (224, 224)
  if args.model != 'cnn':
    config.model.weights = 'published'
  if args.data in _EMBEDDED:
    # Nothing published fits these; the networks start from random weights.
    config.data.image_size = (32, 32)
    config.model.weights = ''


def _set_recipe(config, model, frozen):
  """The study's training kit, the same for all networks where it can be."""
  config.model.name = model
  config.model.head = _HEADS[model] if model in _HEADS else _FROZEN_HEAD
  config.optimizer.learning_rate = _RATES[model] if model in _RATES else 5e-4
  config.optimizer.eps = 1e-7  # Keras' default.
  config.train.batch_size = 32
  config.train.epochs = 10 if model == 'cnn' else 30
  config.loss.weights = 'inverse'
  config.loss.reduction = 'examples'
  config.callbacks.patience = 5
  config.callbacks.plateau_patience = 3
  config.augment.flip_horizontal = True
  config.augment.rotation = 20.0
  config.augment.zoom = 0.15
  config.augment.translation = 0.1
  config.report.keras_log = True
  if frozen:
    config.model.head = _FROZEN_HEAD
    config.model.frozen = '^encoder/'
    config.augment.views = 2
    # An epoch from cached features costs less than a checkpoint.
    config.checkpoint.every_epochs = 10


def _modernise(config, frozen):
  """What one would do today: the prior in the loss, a softer landing."""
  config.loss.name = 'balanced_softmax'
  config.loss.weights = 'none'
  config.optimizer.name = 'adamw'
  config.optimizer.weight_decay = 1e-2
  config.optimizer.schedule = 'cosine'
  config.callbacks.plateau_patience = 0
  config.callbacks.patience = 0
  if frozen:
    config.model.head = ('average', 'batch_norm', 'dropout:0.5')
    config.optimizer.learning_rate = 2e-3
    config.train.batch_size = 64
  elif config.model.name != 'cnn':
    config.optimizer.layer_decay = 0.8
    config.optimizer.ema_decay = 0.99
    config.augment.cutout = 0.25
    config.augment.mixup_alpha = 0.2
