"""Image numbers against their formulas."""

import numpy as np
import pytest
from scipy import ndimage

from vision_jax import image_metrics


def test_reconstruction():
  result = image_metrics.reconstruction(
      np.array([0.01, 0.0001]), data_range=1.0)
  assert result == pytest.approx({'n': 2, 'mse': 0.00505, 'psnr': 30.0})
  wide = image_metrics.reconstruction(
      np.array([0.04, 0.0004]), data_range=2.0)
  assert wide['psnr'] == pytest.approx(30.0)


@pytest.mark.parametrize('side,window', [(32, 11), (8, 7)])
def test_ssim_equals_its_formula(side, window):
  generator = np.random.default_rng(0)
  a, b = generator.uniform(size=(2, 3, side, side, 1)).astype(np.float32)
  x = np.arange(window) - window // 2
  kernel = np.exp(-0.5 * (x / 1.5)**2)
  kernel = np.outer(kernel, kernel) / kernel.sum()**2
  edge = window // 2

  def blur(image):
    return ndimage.correlate(image, kernel)[edge:-edge, edge:-edge]

  for i, value in enumerate(image_metrics.ssim(a, b)):
    u, v = a[i, ..., 0].astype(float), b[i, ..., 0].astype(float)
    mean_u, mean_v = blur(u), blur(v)
    covariance = blur(u * v) - mean_u * mean_v
    spread = blur(u**2) + blur(v**2) - mean_u**2 - mean_v**2
    similarity = ((2 * mean_u * mean_v + 1e-4) * (2 * covariance + 9e-4) / (
        (mean_u**2 + mean_v**2 + 1e-4) * (spread + 9e-4)))
    assert float(value) == pytest.approx(similarity.mean(), abs=1e-4)
  np.testing.assert_allclose(image_metrics.ssim(a, a), 1.0, atol=1e-5)
