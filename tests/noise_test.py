"""Noise: rates and moments, what it depends on, and the study's own sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision_jax import config as config_lib
from vision_jax import published
from vision_jax.data import errors
from vision_jax.data import noise


def make(**fields):
  config = config_lib.base().noise
  config.update(fields)
  return noise.make(config)


def rates(sample, count, shape, salt, pepper):
  """Shares of white and black among `count` images of a grey of 0.5."""
  images = jnp.full((count, *shape), 0.5)
  noisy = np.asarray(jax.jit(lambda x: noise.apply(
      lambda key, image: sample(key, image, salt, pepper), x,
      jnp.arange(count), jax.random.key(1)))(images))
  assert np.all(noisy == noisy[..., :1])  # All channels of a pixel together.
  return np.mean(noisy[..., 0] == 1), np.mean(noisy[..., 0] == 0)


def test_salt_and_pepper_rates_on_ten_thousand_images():
  for rate in rates(noise.salt_and_pepper, 10_000, (28, 28, 1), 0.1, 0.1):
    assert 0.0985 < rate < 0.1015
  white, black = rates(noise.salt_and_pepper, 200, (32, 32, 3), 0.05, 0.3)
  assert white == pytest.approx(0.05, abs=0.003)
  assert black == pytest.approx(0.3, abs=0.005)


def test_no_pixel_is_both_salt_and_pepper():
  # Black drawn over white, or the reverse, would leave less than a half.
  white, black = rates(noise.salt_and_pepper, 500, (28, 28, 1), 0.5, 0.5)
  assert white + black == 1.0
  assert white == pytest.approx(0.5, abs=0.005)


def test_the_study_drew_less_on_grey_and_more_on_colour():
  white, black = rates(
      published.sample_overlapping, 2000, (28, 28, 1), 0.1, 0.1)
  assert white == pytest.approx(0.0858, abs=0.002)
  assert black == pytest.approx(0.0948, abs=0.002)
  white, black = rates(
      published.sample_overlapping, 300, (64, 64, 3), 0.05, 0.05)
  assert white == pytest.approx(0.120, abs=0.002)
  assert black == pytest.approx(0.139, abs=0.002)


def test_gaussian_and_masking():
  images = jnp.full((2, 100, 100, 3), 0.5)
  noisy = noise.gaussian(jax.random.key(0), images, 0.1)
  assert float(noisy.std()) == pytest.approx(0.1, rel=0.02)
  assert float(noisy.mean()) == pytest.approx(0.5, abs=2e-3)
  masked = np.asarray(noise.masking(jax.random.key(0), images, 0.25))
  assert set(np.unique(masked)) == {0.0, 0.5}
  assert np.mean(masked == 0) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize('kind', noise.KINDS)
def test_evaluation_noise_follows_from_the_id_alone(kind):
  corrupt = make(kind=kind)
  images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 1))
  ids = jnp.array([3, 1, 7, 5])
  fixed = noise.apply_fixed(corrupt, images, ids)
  order = jnp.array([2, 0])
  np.testing.assert_array_equal(
      noise.apply_fixed(corrupt, images[order], ids[order]), fixed[order])
  assert float(fixed.min()) >= 0 and float(fixed.max()) <= 1
  changed = bool((noise.apply_fixed(corrupt, images, ids + 1) != fixed).any())
  assert changed == (kind != 'none')
  if kind == 'none':
    np.testing.assert_array_equal(fixed, images)


@pytest.mark.parametrize('fields, message', [
    (dict(kind='salt'), 'salt_pepper'), (dict(salt=0.6, pepper=0.6), 'salt='),
    (dict(std=-1.0), 'std='), (dict(masking=1.5), 'masking=')])
def test_a_wrong_field_is_named(fields, message):
  with pytest.raises(errors.DataError, match=message):
    make(**fields)
