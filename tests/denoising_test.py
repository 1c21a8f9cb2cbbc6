"""What the denoising experiment computes from finished runs."""

import numpy as np
import pytest
from scipy import ndimage

from experiments import denoising
from experiments import denoising_report
import run_helpers


def rows_of(right):
  return [{'encoder': encoder, 'training': 'frozen', 'seed': 0,
           'test noise': 'none', 'correct': np.array(correct)}
          for encoder, correct in right.items()]


def test_encoders_are_compared_on_the_same_images():
  pairs = denoising.compare(rows_of({
      'random': [0, 0, 0, 1] * 25, 'autoencoder': [1, 1, 0, 0] * 25,
      'denoiser': [1, 0, 1, 1] * 25}))
  assert [pair['denoiser against'] for pair in pairs] == [
      'autoencoder', 'random']
  first, second = pairs
  assert (first['only denoiser right'], first['only other right']) == (50, 25)
  assert first['accuracy gain'] == pytest.approx(0.25)
  assert first['low'] < 0.25 < first['high']
  assert (second['only denoiser right'], second['only other right']) == (50, 0)
  assert second['McNemar p'] == pytest.approx(2.0**-49)


def test_the_median_filter_stays_within_an_image():
  config = run_helpers.make_config(noise__kind='salt_pepper')
  images = denoising_report.test_images(config)
  assert not np.array_equal(images['original'], images['noisy'])
  for noisy, median in zip(images['noisy'], images['median'], strict=True):
    for channel in range(3):
      np.testing.assert_array_equal(median[..., channel], ndimage.median_filter(
          noisy[..., channel], size=3))


def test_losers_are_told_apart_by_measure():
  row = lambda method, ssim, high: {
      'noise': 'masking', 'images': '8 px', 'method': method, 'ssim': ssim,
      'high': high}
  assert denoising.losers([
      row('noisy input', 0.1, -9.0), row('median filter', 0.6, None),
      row('dense', 0.3, 1.0), row('vae', 0.2, -0.1), row('conv', 0.7, -0.2),
  ]) == ('vae (masking), conv (masking)', 'dense (masking), vae (masking)')


def test_a_method_is_measured_against_the_median_filter():
  median = {'mse': np.array([0.1, 0.01]), 'ssim': np.array([0.5, 0.7])}
  ours = {'mse': np.array([0.01, 0.001]), 'ssim': np.array([0.6, 0.8])}
  row = denoising_report._row('gaussian', '8 px', 'dense', ours, median)
  assert row['PSNR'] == pytest.approx(25)
  assert row['gain'] == pytest.approx(10)
  assert row['low'] == row['high'] == pytest.approx(10)  # The same on each.
  assert (row['n'], row['ssim']) == (2, pytest.approx(0.7))
  assert denoising_report._row(
      'gaussian', '8 px', 'median', median, median)['gain'] is None
