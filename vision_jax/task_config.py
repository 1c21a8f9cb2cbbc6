"""The fields of `config` that only one task reads; `config.base()` has them all.

One function a node, values only; what they do lives beside the task.
"""

import ml_collections


def gan() -> ml_collections.ConfigDict:
  """Returns `config.gan`, read by tasks/gan.py."""
  return ml_collections.ConfigDict(dict(
      latent_dims=100,  # Length of the noise vector.
      generator_features=(256, 256, 256, 128),  # Each doubles the image.
      discriminator_features=(32, 64, 128, 256, 512),
      norm='batch',  # Of the discriminator: batch, spectral or none.
      conditional=False,  # Draw each class by its label.
      loss='non_saturating',  # Or least_squares, hinge, wasserstein.
      label_smoothing=0.0,  # non_saturating: real targets are lower by this,
      label_noise=0.0,  # and all move inwards by up to this.
      gradient_penalty=0.0,  # wasserstein: its weight, 10 in the paper.
      r1=0.0,  # Weight of |grad D|^2 / 2 at real images.
      r1_every=1,  # Steps between two such penalties.
      lecam=0.0,  # Weight of the LeCam regulariser.
      diff_augment=(),  # color, translation, cutout: on all that D sees.
      ada_augment=(),  # The same parts, each with a probability that adapts:
      ada_target=0.6,  # to keep the mean sign of real logits here,
      ada_images=6000,  # from 0 to 1 in this many images at the soonest.
      discriminator_steps=1,  # Updates of D for one of G.
      discriminator_rate=1.0,  # Its learning rate as a multiple of G's.
      preview_epochs=5,  # Epochs between sample grids; 0 = none.
      preview_count=36,  # Images of a grid.
  ))


def noise() -> ml_collections.ConfigDict:
  """Returns `config.noise`, read by tasks/reconstruction.py and tasks/vae.py.

  What the network sees; its target stays clean.
  """
  return ml_collections.ConfigDict(dict(
      kind='none',  # none, salt_pepper, gaussian or masking.
      salt=0.1,  # salt_pepper: rate of white pixels.
      pepper=0.1,  # salt_pepper: rate of black pixels.
      std=0.1,  # gaussian: standard deviation; images are in [0, 1].
      masking=0.25,  # masking: rate of black pixels.
  ))


def vae() -> ml_collections.ConfigDict:
  """Returns `config.vae`, read by tasks/vae.py."""
  return ml_collections.ConfigDict(dict(
      latent_dims=32,  # Length of a latent vector.
      likelihood='bernoulli',  # Of a pixel: bernoulli or gaussian.
      std=0.1,  # gaussian: its standard deviation.
      beta=1.0,  # Weight of the KL term; 1 is the ELBO.
      warmup_epochs=0.0,  # Epochs in which that weight grows from 0.
      free_bits=0.0,  # Nats a latent dimension whose KL costs nothing.
  ))


def taxonomy() -> ml_collections.ConfigDict:
  """Returns `config.taxonomy`, read by tasks/classification.py.

  It needs class names that are paths: config.data.csv_parent_columns.
  """
  return ml_collections.ConfigDict(dict(
      hierarchical=False,  # Class probabilities factor through the parents'.
      fusion=False,  # The ancestors of an image are inputs, where known.
      fusion_hidden=0.25,  # Share of training images whose own are hidden.
  ))


def semi(*, weak, strong) -> ml_collections.ConfigDict:
  """Returns `config.semi`, read by tasks/semi_supervised.py.

  Args:
    weak: Augmentation of labelled images and of what the teacher sees.
    strong: Augmentation of what FixMatch's student sees.
  """
  return ml_collections.ConfigDict(dict(
      method='fixmatch',  # Or pseudo_label, mean_teacher, supervised.
      threshold=0.95,  # Probability from which a hard label counts.
      weight=1.0,  # Of the mean unlabelled loss.
      ramp_epochs=0.0,  # Epochs in which that weight grows from e^-5 of it.
      teacher='student',  # Weights of the teacher: student or ema.
      weak=weak,
      strong=strong,
  ))


def contrastive(*, views) -> ml_collections.ConfigDict:
  """Returns `config.contrastive`, read by tasks/contrastive.py.

  Args:
    views: Augmentation of both views of an image.
  """
  return ml_collections.ConfigDict(dict(
      dims=64,  # Length of an embedding.
      temperature=0.2,  # Divides the cosine similarity.
      views=views,
  ))
