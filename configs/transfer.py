"""Classifiers A, B1 and B2 of study 0, on an encoder from an autoencoder.

    ./launch.sh --config=configs/transfer.py
    python -m vision_jax.main \
        --config=configs/transfer.py:data=butterflies,model=b1,fraction=0.1 \
        --config.data.root=../shared/data

Arguments: data=digits|procedural|butterflies; model=b2 (fine-tuned encoder),
b1 (frozen), a_matched (B2's architecture from random weights) or a (the
study's own, shallower); fraction of labelled training images;
protocol=sound|published|modern. The autoencoder is trained first where
`runs/pretrained` does not have it yet.

Expected on two CPU cores: digits, test accuracy .98 in 30 seconds, the
autoencoder included. Butterflies with 10 % of the labels (n = 500), after the
autoencoder, means of five seeds: B1 accuracy .53 in half a minute, B2 .52 in 2
minutes, A with B2's architecture .42 in 5; the study printed .396 for B1 and
.198 for B2.
With all labels B1 takes 80 seconds and reaches .77.
"""

from vision_jax import config as config_lib
from vision_jax import datasets


def get_config(arg=None):
  """Returns the config for `arg`."""
  args = config_lib.parse(
      arg, data=tuple(datasets.DATASETS), model=('b2', 'b1', 'a_matched', 'a'),
      fraction=1.0, protocol=config_lib.PROTOCOLS)
  config = config_lib.base()
  config.name = f'transfer-{args.data}-{args.model}-{args.protocol}'
  config.protocol = args.protocol
  datasets.use(config, args.data)
  config.data.label_fraction = args.fraction
  config.optimizer.learning_rate = 1e-4
  config.train.epochs = 30
  config.callbacks.patience = 5
  _set_model(config, args)
  if args.data == 'digits':
    config.optimizer.learning_rate = 1e-3
  if args.protocol == 'published':
    _publish(config, args)
  elif args.protocol == 'modern':
    _modernise(config)
  return config


def _set_model(config, args):
  if args.data == 'digits':
    config.model.features = (32, 64)
    config.model.head = ('flatten', 'dense:64')
  if args.model == 'a':
    config.model.features = config.model.features[:2]
    config.model.dropout = 0.0
  if args.model in ('b1', 'b2'):
    config.model.weights = (
        f'configs/autoencoder.py:data={args.data},protocol={args.protocol}')
  if args.model == 'b1':
    config.model.frozen = '^encoder/'


def _publish(config, args):
  """The study as it was run; experiments/butterflies.py chains its fits."""
  config.train.epochs = 25
  config.data.validation_fraction = 0.0
  config.callbacks.monitor = 'train_last_batch_loss'
  config.callbacks.restore_best = False
  config.model.frozen_mode = 'train'
  config.published.switches = ('batch_metrics', 'last_batch_monitor')
  if args.model == 'b2':
    config.published.switches += ('frozen_by_sharing',)


def _modernise(config):
  config.model.variant = 'residual'
  config.model.head = ('average', 'dropout:0.3')
  config.model.frozen = ''
  config.augment.flip_horizontal = True
  config.augment.rotation = 20.0
  config.augment.zoom = 0.15
  config.augment.translation = 0.1
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.weight_decay = 1e-2
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_epochs = 2.0
  config.train.label_smoothing = 0.1
  config.callbacks.patience = 0
