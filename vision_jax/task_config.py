"""The fields of `config` that only one task reads; `config.base()` has them all.

One function a node, values only; what they do lives beside the task.
"""

import ml_collections


def gan() -> ml_collections.ConfigDict:
  """Returns `config.gan`, read by tasks/gan.py."""
  return ml_collections.ConfigDict(dict(
      latent_dims=100,  # Length of the noise vector.
      conditional=False,  # Draw each class by its label.
      loss='non_saturating',  # Or least_squares, hinge, wasserstein.
      label_smoothing=0.0,  # Real targets 1 - s; non_saturating only.
      label_noise=0.0,  # Targets move inwards by up to so much.
      gradient_penalty=0.0,  # wasserstein: weight, 10 in the paper.
      r1=0.0,  # Weight of |grad D|^2 / 2 at real images.
      r1_every=1,  # Steps between two penalties, whose weight grows with it.
      lecam=0.0,  # Weight of the LeCam regulariser.
      diff_augment=(),  # color, translation, cutout: on all D sees.
      discriminator_steps=1,  # Updates of D for one of G.
      discriminator_rate=1.0,  # D's learning rate as a multiple of G's.
      preview_epochs=5,  # Epochs between sample grids; 0 = none.
      preview_count=36,  # Images of a grid.
      measure_images=0,  # Samples for the measures at the end; 0 = as test.
      extractor='pixels',  # Features of the measures: pixels, or a backbone.
  ))
