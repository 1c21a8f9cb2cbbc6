"""Numbers for images that ought to equal others: error, PSNR and SSIM.

Whole-set numbers are computed on the host in float64 from one value an image.
Distances between two sets of images, as for samples, are not here.
"""

import dm_pix
import jax
import numpy as np


def reconstruction(
    mse_per_example: np.ndarray, *, data_range: float
) -> dict[str, float]:
  """Returns n, the mean squared error and the mean PSNR in decibels.

  Args:
    mse_per_example: float [n], mean squared error of each image.
    data_range: largest minus smallest possible pixel value.

  Returns:
    `psnr` is the mean over images of each image's 10 log10(range^2 / mse), and
    infinite where an image is reproduced exactly.
  """
  mse = np.asarray(mse_per_example, np.float64)
  with np.errstate(divide='ignore'):
    psnr = 10 * np.log10(data_range**2 / mse)
  return {'n': len(mse), 'mse': float(mse.mean()), 'psnr': float(psnr.mean())}


def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns the structural similarity [B] of images [B, H, W, C] in [0, 1].

  The 11-pixel Gaussian window of Wang et al., 2004, "Image quality assessment",
  shrinks to the largest odd size that fits images with a smaller side.
  """
  side = min(11, a.shape[-3], a.shape[-2])
  return dm_pix.ssim(a, b, filter_size=side - (side + 1) % 2)
