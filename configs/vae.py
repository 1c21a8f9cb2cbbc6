"""Denoising variational autoencoder: the extra that study 0 never reported.

    python -m vision_jax.main --config=configs/vae.py
    python -m vision_jax.main --config=configs/vae.py:data=butterflies \
        --config.data.root=../shared/data

Arguments: data=digits|procedural|butterflies; model=dense (28 px grey,
Bernoulli pixels) or conv (64 px colour, normal pixels of deviation .1);
noise=salt_pepper|gaussian|masking|none; size (side in pixels) and epochs, 0 =
the model's own; protocol=sound|published (the study's sampler of noise)|modern
(free bits, averaged weights). The weight of the KL term
grows over the first ten epochs. Loss and ELBO are in nats an image.

Expected on two CPU cores: digits, test loss 26.1 nats (PSNR 13.5 dB, 17 of 32
dimensions in use) in 30 seconds; without the warm-up all dimensions collapse.
Butterflies (n = 500): test loss 502 nats, 13 of 32 in use, in two minutes.
"""

from vision_jax import config as config_lib
from vision_jax import datasets

_EPOCHS = {'dense': 50, 'conv': 30}


def get_config(arg=None):
  """Returns the config for `arg`."""
  args = config_lib.parse(
      arg, data=tuple(datasets.DATASETS), model=tuple(_EPOCHS),
      noise=('salt_pepper', 'gaussian', 'masking', 'none'),
      protocol=config_lib.PROTOCOLS, size=0, epochs=0)
  config = config_lib.base()
  config.name = f'vae-{args.data}-{args.model}-{args.noise}-{args.protocol}'
  config.task = 'vae'
  config.protocol = args.protocol
  datasets.use(config, args.data)
  config.noise.kind = args.noise
  config.train.epochs = args.epochs or _EPOCHS[args.model]
  # The ELBO may fall while the KL term warms up, so nothing stops early.
  config.vae.warmup_epochs = 10.0
  config.optimizer.learning_rate = 2e-3
  _set_model(config, args)
  if args.protocol == 'published':
    config.published.switches = ('overlapping_noise',)
  elif args.protocol == 'modern':
    config.augment.flip_horizontal = True
    config.optimizer.schedule = 'cosine'
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.ema_decay = 0.99
    config.vae.free_bits = 0.05
  return config


def _set_model(config, args):
  small = args.data == 'digits'
  config.model.input = 'unit'
  config.model.name = f'{args.model}_vae'
  if args.model == 'dense':
    config.model.features = (128, 64)
    config.data.channels = 1
    if not small:
      config.data.image_size = (28, 28)
  else:
    config.model.features = (16, 32) if small else (64, 128, 256)
    config.vae.likelihood = 'gaussian'
    config.vae.latent_dims = 64
    if not small:
      config.data.image_size = (64, 64)
  if args.size:
    config.data.image_size = (args.size, args.size)
