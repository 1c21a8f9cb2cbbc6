"""The CNN of study 2 on imbalanced sets, and the kit of remedies.

    python -m vision_jax.main --config=configs/imbalance.py
    python -m vision_jax.main \
        --config=configs/imbalance.py:data=caltech101,ratio=15,rung=plain \
        --config.data.root=../shared/data

Arguments: data=digits|caltech101; ratio=1|3|7|15; rung=plain, regularized (L2,
dropout, augmentation) or normalized (and BatchNorm); remedy=none or one of
REMEDIES; protocol=sound (tested on the balanced test), published (on the set's
own test) or modern (the normalized rung with cosine decay, mixup and a
balanced softmax; `rung` and `remedy` are then `normalized` and `none`).

Expected on two CPU cores: an epoch on caltech101 is 22 steps of ten images;
five of them at 227 pixels take 30 seconds, start and tests included. At 67
pixels and 24 epochs, 15:1, plain training reaches balanced accuracy .40 on the
balanced test and the normalized rung .45, means of five seeds
(experiments/imbalance.py).
"""

from vision_jax import config as config_lib
from vision_jax import datasets

_DATA = ('digits', 'caltech101')
_RATIOS = ('1', '3', '7', '15')
RUNGS = ('plain', 'regularized', 'normalized')
# Each remedy is a few fields; everything else stays as in plain training.
REMEDIES = {
    'none': {},
    'weighted': {'loss.weights': 'inverse', 'loss.reduction': 'examples'},
    'weighted_by_weights': {'loss.weights': 'inverse'},
    'class_balanced': {
        'loss.weights': 'effective', 'loss.reduction': 'examples'},
    'focal': {'loss.name': 'focal'},
    # On a head of 30 times the cosines; the margin is the source's .5 there.
    'ldam': {'loss.name': 'ldam', 'loss.margin': 15.0},
    'ldam_drw': {
        'loss.name': 'ldam', 'loss.margin': 15.0, 'loss.weights': 'effective',
        'loss.defer_epochs': 40},
    'logit_adjusted': {'loss.name': 'logit_adjusted'},
    'balanced_softmax': {'loss.name': 'balanced_softmax'},
    'label_smoothing': {'train.label_smoothing': 0.1},
    'mixup': {'augment.mixup_alpha': 1.0},
    'remix': {'augment.mixup_alpha': 1.0, 'augment.remix_kappa': 3.0},
    **{name: {'train.sampler': name} for name in (
        'over', 'under', 'square_root', 'class_aware', 'progressive')},
    **{name: {'train.refine': name} for name in (
        'post_hoc', 'thresholds', 'tau_norm', 'refit', 'crt', 'smote',
        'adasyn', 'tomek', 'enn', 'cluster_centroids')},
}


def get_config(arg=None):
  """Returns the config for `arg`."""
  args = config_lib.parse(
      arg, data=_DATA, ratio=_RATIOS, rung=RUNGS, remedy=tuple(REMEDIES),
      protocol=config_lib.PROTOCOLS)
  config = config_lib.base()
  config.name = (f'imbalance-{args.data}-{args.ratio}-{args.rung}-'
                 f'{args.remedy}-{args.protocol}')
  config.protocol = args.protocol
  datasets.use(config, args.data)
  if args.data == 'digits':
    config.data.image_size = (67, 67)
  config.data.imbalance.kind = 'step'
  config.data.imbalance.ratio = float(args.ratio)
  _set_recipe(config)
  set_rung(config, args.rung)
  set_remedy(config, args.remedy)
  if args.protocol == 'published':
    config.data.imbalance.test = 'own'
  elif args.protocol == 'modern':
    _modernise(config, args)
  return config


def _set_recipe(config):
  """What all rungs share, from the study's text and MATLAB's habits."""
  config.model.name = 'imbalance_cnn'
  config.model.input = 'pixels'
  config.optimizer.name = 'sgd'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = 'step'
  config.train.epochs = 50
  config.train.batch_size = 10
  config.train.remainder = 'drop'
  # Nothing is selected: the last weights are tested.
  config.callbacks.monitor = 'train_loss'
  config.callbacks.restore_best = False


def set_rung(config, rung):
  """Sets a rung of the study's ladder against overfitting."""
  if rung == 'plain':
    return
  config.optimizer.weight_decay = 5e-4
  config.model.head = ('flatten', 'dense:512', 'dropout:0.5')
  config.augment.rotation = 20.0
  config.augment.flip_horizontal = True
  config.augment.translation = 3 / 227
  if rung == 'normalized':
    config.model.variant = 'normalized'


def set_remedy(config, remedy):
  """Sets the fields of a remedy by name."""
  config.update_from_flattened_dict(REMEDIES[remedy])
  if config.loss.name == 'ldam':
    config.model.head = (*config.model.head, 'cosine:30')


def _modernise(config, args):
  if (args.rung, args.remedy) != ('plain', 'none'):
    raise config_lib.ConfigError(
        'protocol=modern sets rung and remedy itself; leave both out.')
  set_rung(config, 'normalized')
  set_remedy(config, 'balanced_softmax')
  config.augment.mixup_alpha = 0.2
  config.optimizer.schedule = 'cosine'
  config.optimizer.learning_rate = 1e-2
