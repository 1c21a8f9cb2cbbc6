"""A GAN of two dimensions: points on a line, or on a cosine.

    python -m vision_jax.main --config=configs/toy_gan.py
    python -m vision_jax.main --config=configs/toy_gan.py:data=cosine

Arguments: data=line|cosine, protocol (published and modern are sound: the
study gives no details of its toys), epochs. A point is an image of two pixels,
x and y; `figures/points.png` shows data and samples.

Expected on two CPU cores: sliced Wasserstein distance to the test points
below .05 for the line and .08 for the cosine, in units in which the square has
a side of 2, after 20 seconds each.
"""

from vision_jax import config as config_lib


def get_config(arg=None):
  """Returns the config for `arg`."""
  args = config_lib.parse(
      arg, data=('line', 'cosine'), protocol=config_lib.PROTOCOLS, epochs=100)
  config = config_lib.base()
  config.name = f'toy_gan-{args.data}'
  config.task = 'gan'
  config.protocol = args.protocol
  config.data.source = args.data
  config.data.image_size = (1, 2)
  config.data.procedural_examples = 5000
  config.data.duplicates = 'ignore'  # A byte has only 256 places.
  config.data.validation_fraction = 0.0
  config.model.name = 'point_gan'
  config.model.output = 'tanh'
  config.model.target = 'signed'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.b1 = 0.5
  config.optimizer.b2 = 0.9
  config.optimizer.ema_decay = 0.99
  config.train.epochs = args.epochs
  config.train.batch_size = 128
  config.train.eval_batch_size = 1000
  config.train.remainder = 'drop'
  config.checkpoint.every_epochs = 10
  config.callbacks.monitor = 'train_generator_loss'
  config.callbacks.restore_best = False
  config.gan.latent_dims = 8
  config.gan.generator_features = (128, 128)
  config.gan.discriminator_features = (128, 128)
  config.gan.r1 = 0.1
  config.gan.preview_epochs = 0
  return config
