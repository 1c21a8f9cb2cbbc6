"""U-Net autoencoder of study 0, whose encoder the classifiers start from.

    python -m vision_jax.main --config=configs/autoencoder.py
    python -m vision_jax.main \
        --config=configs/autoencoder.py:data=butterflies \
        --config.data.root=../shared/data

Arguments: data=digits|procedural|butterflies, skip=add|concat|none,
protocol=sound|published|modern, epochs, pretrain=all_train|unlabelled_only
and fraction (of labelled images, which unlabelled_only leaves out).

Expected on two CPU cores: digits, validation loss .013 in 15 seconds.
Butterflies at 128 px, validation loss .005 (PSNR 23 dB) after 8 epochs of 75
seconds.
"""

from vision_jax import config as config_lib
from vision_jax import datasets


def get_config(arg=None):
  """Returns the config for `arg`."""
  args = config_lib.parse(
      arg, data=tuple(datasets.DATASETS), skip=('add', 'concat', 'none'),
      protocol=config_lib.PROTOCOLS,
      pretrain=('all_train', 'unlabelled_only'), fraction=1.0, epochs=30)
  config = config_lib.base()
  config.name = f'autoencoder-{args.data}-{args.protocol}'
  config.task = 'reconstruction'
  config.protocol = args.protocol
  datasets.use(config, args.data)
  config.model.skip = args.skip
  config.optimizer.learning_rate = 5e-4
  config.train.epochs = args.epochs
  config.callbacks.patience = 7
  if args.pretrain == 'unlabelled_only':
    config.train.split = 'unlabelled'
    config.data.label_fraction = args.fraction
  if args.data == 'digits':
    config.model.features = (32, 64)
  if args.protocol == 'published':
    # The whole training folder, a target that the output cannot reach, and a
    # stop on the training loss.
    config.published.switches = ('unchecked_range',)
    config.model.target = 'signed'
    config.data.validation_fraction = 0.0
    config.callbacks.monitor = 'train_loss'
    config.callbacks.restore_best = False
  elif args.protocol == 'modern':
    config.model.variant = 'residual'
    config.model.skip = 'none'
    config.augment.flip_horizontal = True
    config.optimizer.name = 'adamw'
    config.optimizer.weight_decay = 1e-4
    config.optimizer.schedule = 'cosine'
    config.optimizer.warmup_epochs = 1.0
  return config
