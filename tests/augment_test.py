"""Augmentation: purity, ranges, rates, and resampling against scipy."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from scipy import ndimage

from vision_jax import config as config_lib
from vision_jax.data import augment
from vision_jax.data import errors
from vision_jax.data import warp

# Every strength on its own, so that a test can name the one that fails.
STRENGTHS = {
    'flip_horizontal': True, 'flip_vertical': True, 'rotation': 30.0,
    'translation': 0.2, 'zoom': 0.3, 'crop_padding': 3, 'brightness': 0.3,
    'contrast': 0.5, 'saturation': 0.5, 'hue': 0.2, 'cutout': 0.5,
    'salt_pepper_salt': 0.1, 'salt_pepper_pepper': 0.1, 'gaussian_noise': 0.1,
}


def _config(**strengths) -> ml_collections.ConfigDict:
  result = config_lib.base().augment
  for name, value in strengths.items():
    result[name] = value
  return result


def _apply(config, images, ids, key):
  apply = jax.jit(augment.apply, static_argnums=0)
  return apply(ml_collections.FrozenConfigDict(config), images, ids, key)


def _images(n=6, height=12, width=14, seed=0):
  # Smooth, so that no two neighbouring pixels decide a comparison.
  noise = np.random.default_rng(seed).uniform(size=(n, height, width, 3))
  return jnp.asarray(
      ndimage.gaussian_filter(noise, (0, 1, 1, 0)), jnp.float32)


def test_everything_off_is_the_identity():
  images = _images()
  result = augment.apply(_config(), images, jnp.arange(6), jax.random.key(0))
  np.testing.assert_array_equal(result, images)
  batch = {'image': images, 'label': jnp.arange(6), 'mask': jnp.ones(6)}
  assert augment.mix(_config(), jax.random.key(0), batch, 6) is batch


@pytest.mark.parametrize('name', STRENGTHS)
def test_each_strength_changes_images_and_keeps_their_range(name):
  images = _images()
  result = _apply(_config(**{name: STRENGTHS[name]}), images, jnp.arange(6),
                  jax.random.key(1))
  assert result.shape == images.shape and result.dtype == jnp.float32
  assert np.all(np.isfinite(result)) and 0 <= result.min() <= result.max() <= 1
  assert np.any(np.abs(result - images) > 1e-3, axis=(1, 2, 3)).sum() >= 2


def test_an_augmented_image_depends_on_key_and_id_alone():
  config = _config(**STRENGTHS)
  images, ids = _images(), jnp.array([4, 9, 2, 7, 11, 0])
  key = jax.random.key(3)
  expected = _apply(config, images, ids, key)
  order = np.array([3, 0, 5, 1, 4, 2])
  np.testing.assert_allclose(
      _apply(config, images[order], ids[order], key), expected[order],
      atol=1e-6)
  other = _apply(config, images, ids, jax.random.key(4))
  assert np.abs(other - expected).max(axis=(1, 2, 3)).min() > 0.01
  twins = _apply(config, images[:1].repeat(6, axis=0), ids, key)
  assert np.abs(twins[0] - twins[1]).max() > 0.01


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(
    angle=st.floats(-3, 3), scale=st.floats(0.5, 2), y=st.floats(-20, 20),
    x=st.floats(-20, 20))
def test_affine_equals_scipy(angle, scale, y, x):
  image = _images(1)[0]
  matrix = scale * np.array(
      [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  centre = (np.array(image.shape[:2]) - 1) / 2
  grid = np.stack(np.meshgrid(*map(np.arange, image.shape[:2]), indexing='ij'))
  points = np.einsum('ij,jhw->ihw', matrix, grid - centre[:, None, None])
  points += (centre + [y, x])[:, None, None]
  expected = np.stack([
      ndimage.map_coordinates(np.asarray(image[..., c], float), points,
                              order=1, mode='mirror') for c in range(3)], -1)
  result = warp.affine(image, jnp.asarray(matrix, jnp.float32),
                       jnp.array([y, x], jnp.float32))
  np.testing.assert_allclose(result, expected, atol=2e-4)


def test_affine_of_a_quarter_turn_and_a_whole_shift():
  image = _images(1, height=9, width=9)[0]
  turn = jnp.array([[0.0, -1.0], [1.0, 0.0]])
  np.testing.assert_allclose(
      warp.affine(image, turn, jnp.zeros(2)), jnp.rot90(image, -1),
      atol=1e-6)
  shifted = warp.affine(image, jnp.eye(2), jnp.array([2.0, 0.0]))
  np.testing.assert_allclose(shifted[:-2], image[2:], atol=1e-6)


@pytest.mark.parametrize('name,axis', [
    ('flip_horizontal', 2), ('flip_vertical', 1)])
def test_flips_happen_half_of_the_time(name, axis):
  images = _images(1).repeat(400, axis=0)
  result = _apply(_config(**{name: True}), images, jnp.arange(400),
                  jax.random.key(0))
  flipped = np.all(result == jnp.flip(images, axis), axis=(1, 2, 3))
  same = np.all(result == images, axis=(1, 2, 3))
  assert np.all(flipped ^ same) and 150 < flipped.sum() < 250


def test_crop_shifts_by_at_most_the_padding():
  image = np.asarray(_images(1)[0])
  padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode='reflect')
  crops = {padded[i:i + 12, j:j + 14].tobytes(): (i, j)
           for i in range(5) for j in range(5)}
  result = _apply(_config(crop_padding=2), jnp.stack([image] * 200),
                  jnp.arange(200), jax.random.key(0))
  seen = {crops[np.asarray(crop).tobytes()] for crop in result}
  assert len(seen) == 25


def test_cutout_fills_a_square_with_the_mean():
  images = _images(50, height=20, width=20)
  result = _apply(
      _config(cutout=0.5), images, jnp.arange(50), jax.random.key(0))
  means = images.mean(axis=(1, 2), keepdims=True)
  filled = np.all(np.abs(result - means) < 1e-5, axis=-1)
  rows, columns = filled.any(axis=2).sum(1), filled.any(axis=1).sum(1)
  assert rows.max() == columns.max() == 10 and rows.min() >= 5
  np.testing.assert_array_equal(filled.sum(axis=(1, 2)), rows * columns)


def _batch(mask):
  n = len(mask)
  # Image i is constant i / n: what it is mixed of can be read off.
  images = jnp.broadcast_to(
      (jnp.arange(n) / n)[:, None, None, None], (n, 8, 8, 1))
  return {'image': images, 'label': jnp.arange(n), 'id': jnp.arange(n),
          'mask': jnp.asarray(mask, jnp.float32)}


@pytest.mark.parametrize('alphas', [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mix_blends_image_and_target_alike(alphas):
  batch = _batch([1, 1, 1, 1, 1, 0, 0, 0])
  config = ml_collections.FrozenConfigDict(
      _config(mixup_alpha=alphas[0], cutmix_alpha=alphas[1]))
  mix = jax.jit(augment.mix, static_argnums=(0, 3))
  for seed in range(5):
    mixed = mix(config, jax.random.key(seed), batch, 8)
    np.testing.assert_allclose(mixed['target'].sum(axis=1), 1, atol=1e-6)
    # The mean grey value of an image is its target's mean label / 8.
    np.testing.assert_allclose(
        mixed['image'].mean(axis=(1, 2, 3)),
        mixed['target'] @ jnp.arange(8) / 8, atol=1e-6)
    # Real rows mix among themselves; padding stays as it is.
    assert np.all(mixed['target'][:5, 5:] == 0)
    np.testing.assert_array_equal(mixed['target'][5:], jnp.eye(8)[5:])
    np.testing.assert_array_equal(mixed['id'], batch['id'])
    if alphas == (0.0, 1.0):
      values = np.unique(np.round(8 * mixed['image'], 5))
      assert set(values) <= set(range(8))


def test_mix_gives_every_real_row_one_other_partner():
  mask = jnp.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
  partner = np.asarray(augment._partners(jax.random.key(0), mask))
  np.testing.assert_array_equal(partner[[1, 4]], [1, 4])
  assert set(partner[[0, 2, 3, 5]]) == {0, 2, 3, 5}
  assert np.all(partner[[0, 2, 3, 5]] != [0, 2, 3, 5])


@pytest.mark.parametrize('strengths,message', [
    ({'hue': 0.7}, r'config.augment.hue = 0.7: .* \[0, 0.5\]'),
    ({'rotation': -1.0}, 'augment.rotation'),
    ({'salt_pepper_salt': 0.6, 'salt_pepper_pepper': 0.6}, 'exceed 1'),
])
def test_strengths_out_of_range_are_named(strengths, message):
  with pytest.raises(errors.DataError, match=message):
    augment.make(_config(**strengths))
  with pytest.raises(errors.DataError, match=message):
    augment.check(_config(**strengths), 3)


def test_color_steps_refuse_grey_images():
  grey = jnp.zeros((8, 8, 1))
  with pytest.raises(errors.DataError, match='config.augment.hue = 0.1 needs'):
    augment.make(_config(hue=0.1))(jax.random.key(0), grey)
  with pytest.raises(errors.DataError, match='config.semi.weak.saturation'):
    augment.check(_config(saturation=0.1), 1, field='config.semi.weak')
  augment.check(_config(contrast=0.1), 1)
