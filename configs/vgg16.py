"""Study 1: a frozen VGG16 with two heads, for anime, cartoon and human.

    python -m vision_jax.main --config=configs/vgg16.py
    python -m vision_jax.main --config=configs/vgg16.py:data=characters,model=1 \
        --config.data.root=../shared/data

Arguments: data=digits|procedural|characters (or any other of
vision_jax/datasets.py), model=1|2 (Table of the study: 21,139,267 and
27,692,355 parameters at 224 px), protocol=sound|published|modern. The paper
gives no size, batch, optimizer or rate: 224 px, 20 (its 25 steps make k/500),
Adam and 1e-4 are our choice. VGG16's weights are looked for in the weights
folder; `--config.model.weights=` (empty) starts from random ones.

Expected on two CPU cores: digits on a random VGG16, test accuracy .65 in
20 seconds, which shows the plumbing and no more. `published` scores shuffled
predictions: test accuracy at chance, whatever validation says.
"""

from vision_jax import config as config_lib
from vision_jax import datasets

_EMBEDDED = ('digits', 'procedural')


def get_config(arg=None):
  """Returns the config for `arg`."""
  args = config_lib.parse(
      arg, data=tuple(datasets.DATASETS), model=('1', '2'),
      protocol=config_lib.PROTOCOLS)
  config = config_lib.base()
  config.name = f'vgg16-{args.data}-{args.model}-{args.protocol}'
  config.protocol = args.protocol
  datasets.use(config, args.data)
  config.data.channels = 3
  config.data.image_size = (224, 224)
  config.model.name = 'vgg16'
  config.model.weights = 'published'
  config.model.frozen = '^encoder/'
  config.model.head = {
      '1': ('flatten', 'dense:256', 'batch_norm', 'dropout:0.5'),
      '2': ('flatten', 'dense:512', 'dense:256'),
  }[args.model]
  config.optimizer.learning_rate = 1e-4
  config.optimizer.eps = 1e-7  # Keras' default.
  config.train.batch_size = 20
  config.train.epochs = {'1': 15, '2': 30}[args.model]
  if args.protocol == 'published':
    config.published.switches = ('misaligned_predictions', 'truncated_steps')
    config.report.guard = False
    config.callbacks.restore_best = False
    config.augment.flip_horizontal = True
  elif args.protocol == 'modern':
    config.model.head = ('average', 'dropout:0.3')
    config.augment.flip_horizontal = True
    config.augment.zoom = 0.1
    config.augment.rotation = 10.0
    config.augment.views = 4
    config.optimizer.name = 'adamw'
    config.optimizer.weight_decay = 1e-2
    config.optimizer.schedule = 'cosine'
    config.optimizer.learning_rate = 1e-3
    config.train.label_smoothing = 0.1
  else:
    # The study augmented; a few fixed views keep the backbone cacheable.
    config.augment.flip_horizontal = True
    config.augment.views = 2
  if args.data in _EMBEDDED:
    config.data.image_size = (32, 32)
    config.model.weights = ''
    config.augment.flip_horizontal = False  # A mirrored digit is none.
    config.augment.views = 0
    config.train.epochs = 3
  return config
