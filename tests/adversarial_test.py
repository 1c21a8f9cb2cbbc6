"""Adversarial losses and penalties against PyTorch's and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from vision_jax import adversarial
from vision_jax.data import diff_augment

KEY = jax.random.key(0)
REAL = np.random.default_rng(0).normal(size=8) * 3
FAKE = np.random.default_rng(1).normal(size=8) * 3


def players(objective):
  real, fake = objective.discriminator(jnp.array(REAL), jnp.array(FAKE), KEY)
  return real, fake, objective.generator(jnp.array(FAKE))


@pytest.mark.parametrize('objective,expected', [
    (adversarial.non_saturating(), (
        -special.log_expit(REAL), -special.log_expit(-FAKE),
        -special.log_expit(FAKE))),
    (adversarial.least_squares(), (
        (REAL - 1)**2 / 2, FAKE**2 / 2, (FAKE - 1)**2 / 2)),
    (adversarial.hinge(), (
        np.maximum(0, 1 - REAL), np.maximum(0, 1 + FAKE), -FAKE)),
    (adversarial.wasserstein(), (-REAL, FAKE, -FAKE)),
], ids=['non_saturating', 'least_squares', 'hinge', 'wasserstein'])
def test_losses_equal_their_formulas(objective, expected):
  for loss, wanted in zip(players(objective), expected, strict=True):
    np.testing.assert_allclose(loss, wanted, rtol=1e-5, atol=1e-6)


def test_smoothed_and_noisy_targets_enter_the_cross_entropy():
  objective = adversarial.non_saturating(smoothing=0.1, noise=0.05)
  real_target, fake_target = (np.asarray(t, float) for t in (
      adversarial.binary_targets(KEY, (8,), smoothing=0.1, noise=0.05)))
  entropy = lambda l, t: -(
      t * special.log_expit(l) + (1 - t) * special.log_expit(-l))
  real, fake, _ = players(objective)
  np.testing.assert_allclose(real, entropy(REAL, real_target), rtol=1e-5)
  np.testing.assert_allclose(fake, entropy(FAKE, fake_target), rtol=1e-5)


def test_the_studys_generator_wants_its_images_to_pass_as_zero():
  loss = adversarial.study_cross_entropy().generator(jnp.array(FAKE))
  np.testing.assert_allclose(
      loss, -np.log1p(-special.expit(FAKE)), rtol=1e-4, atol=1e-6)


def test_penalties_of_a_quadratic_critic():
  """D(x) = |x|^2 / 2 has the gradient x."""
  critic = lambda x: jnp.square(x).sum((1, 2, 3)) / 2
  x = jax.random.normal(KEY, (3, 4, 4, 2))
  norms = np.square(x).sum((1, 2, 3))
  np.testing.assert_allclose(
      adversarial.r1_penalty(critic, x), norms / 2, rtol=1e-5)
  np.testing.assert_allclose(
      adversarial.gradient_penalty(critic, x, x, KEY),
      (np.sqrt(norms) - 1)**2, rtol=1e-4)
  # Between x and -x a mean point's gradient is shorter.
  between = adversarial.gradient_penalty(critic, x, -x, KEY)
  assert (between <= (np.sqrt(norms) - 1)**2 + 1e-4).all()


def test_the_gradient_penalty_has_a_finite_gradient_at_a_flat_critic():
  slope = jax.grad(lambda w: adversarial.gradient_penalty(
      lambda x: w * x.sum((1, 2, 3)), jnp.ones((2, 3, 3, 1)),
      jnp.zeros((2, 3, 3, 1)), KEY).sum())(0.0)
  assert np.isfinite(slope)


def test_lecam_equals_its_formula():
  means = {'real': jnp.float32(0.7), 'fake': jnp.float32(-0.4)}
  real, fake = adversarial.lecam(jnp.array(REAL), jnp.array(FAKE), means)
  np.testing.assert_allclose(real, (REAL + 0.4)**2, rtol=1e-5)
  np.testing.assert_allclose(fake, (FAKE - 0.7)**2, rtol=1e-5)


def test_translation_moves_whole_pixels_and_brings_zeros_in():
  images = jax.random.uniform(KEY, (50, 16, 16, 3), minval=0.5)
  moved = np.asarray(diff_augment.translation(KEY, images))
  seen = set()
  for before, after in zip(np.asarray(images), moved):
    matches = [
        (r, c) for r in range(-2, 3) for c in range(-2, 3)
        if np.array_equal(
            after[max(r, 0):16 + min(r, 0), max(c, 0):16 + min(c, 0)],
            before[max(-r, 0):16 + min(-r, 0), max(-c, 0):16 + min(-c, 0)])]
    assert len(matches) == 1
    r, c = matches[0]
    assert (after == 0).all(-1).sum() == 256 - (16 - abs(r)) * (16 - abs(c))
    seen.add(matches[0])
  assert len(seen) > 10


def test_cutout_erases_half_the_side_and_passes_no_gradient_there():
  images = jnp.ones((200, 16, 16, 1))
  cut = np.asarray(diff_augment.cutout(KEY, images))
  sides = np.sqrt((cut[..., 0] == 0).sum((1, 2)))
  assert sides.max() == pytest.approx(8, abs=0.51)
  slope = jax.grad(
      lambda x: diff_augment.cutout(KEY, x).sum())(images)
  np.testing.assert_array_equal(slope, cut)


def test_color_keeps_the_mean_but_for_brightness():
  images = jax.random.uniform(KEY, (500, 4, 4, 3), minval=-1.0)
  changed = diff_augment.color(KEY, images)
  shift = np.asarray(changed.mean((1, 2, 3)) - images.mean((1, 2, 3)))
  assert -0.5 <= shift.min() < -0.4 and 0.4 < shift.max() <= 0.5
  spread = np.asarray(changed.mean(-1).std((1, 2)) / images.mean(-1).std((1, 2)))
  assert 0.5 - 1e-3 <= spread.min() < 0.55 and 1.45 < spread.max() < 1.5 + 1e-3


PARTS = ('color', 'translation', 'cutout')


def test_a_change_of_probability_zero_is_none_and_of_one_is_all():
  images = jax.random.uniform(KEY, (20, 8, 8, 3), minval=-1.0)
  change = lambda p: diff_augment.sometimes(KEY, images, PARTS, p)
  np.testing.assert_array_equal(change(0.0), images)
  np.testing.assert_array_equal(
      change(1.0), diff_augment.apply(KEY, images, PARTS))


def test_a_probability_is_the_share_of_images_that_a_change_meets():
  images = jax.random.uniform(KEY, (2000, 4, 4, 3), minval=-1.0)
  changed = np.asarray(diff_augment.sometimes(KEY, images, ('color',), 0.3))
  share = (changed != images).any((1, 2, 3)).mean()
  assert share == pytest.approx(0.3, abs=0.05)
  # Each of several changes meets images of its own.
  changed = np.asarray(
      diff_augment.sometimes(KEY, images, ('color', 'cutout'), 0.3))
  cut = (changed == 0).all(-1).any((1, 2))
  plain = (changed == images).all(-1).any((1, 2))
  assert (cut & plain).any() and (cut & ~plain).any()


def test_a_gradient_passes_changes_made_sometimes():
  images = jax.random.uniform(KEY, (50, 8, 8, 3), minval=-1.0)
  slope = jax.grad(lambda x: diff_augment.sometimes(
      KEY, x, PARTS, 0.5).sum())(images)
  assert np.isfinite(slope).all()
  assert (np.abs(slope).sum((1, 2, 3)) > 0).all()


def test_names_of_changes_are_checked():
  assert diff_augment.check('gan.diff_augment', ('color',)) == ('color',)
  with pytest.raises(ValueError, match='cutout'):
    diff_augment.check('gan.ada_augment', ('cutuot',))
