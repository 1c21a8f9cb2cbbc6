"""Losses without labels, against numpy from the papers' equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision_jax import unlabelled_losses


def softmax(x):
  """In float64."""
  e = np.exp(x - x.max(-1, keepdims=True), dtype=np.float64)
  return e / e.sum(-1, keepdims=True)


def logits(seed, rows=40, classes=5, scale=3.0):
  return np.random.default_rng(seed).normal(
      0, scale, (rows, classes)).astype(np.float32)


@pytest.mark.parametrize('threshold', [0.0, 0.7, 0.95])
def test_fixmatch_is_equation_four(threshold):
  student, teacher = logits(0), logits(1)
  ours = unlabelled_losses.pseudo_label(student, teacher, threshold=threshold)
  q, p = softmax(teacher), softmax(student)
  expected = np.array([
      -np.log(p[i, q[i].argmax()]) if q[i].max() >= threshold else 0.0
      for i in range(len(q))])
  assert 0 < (expected > 0).sum() <= len(q)
  np.testing.assert_allclose(ours, expected, atol=1e-6, rtol=1e-6)
  _, sure = unlabelled_losses.confident(teacher, threshold=threshold)
  np.testing.assert_array_equal(sure, expected > 0)


def test_consistency_is_the_mean_square_of_probabilities():
  student, teacher = logits(0), logits(1)
  np.testing.assert_allclose(
      unlabelled_losses.consistency(student, teacher),
      ((softmax(student) - softmax(teacher))**2).mean(-1), atol=1e-6)


@pytest.mark.parametrize('loss', [
    lambda s, t: unlabelled_losses.pseudo_label(s, t, threshold=0.5).sum(),
    lambda s, t: unlabelled_losses.consistency(s, t).sum()])
def test_no_gradient_reaches_the_teacher(loss):
  to_student, to_teacher = jax.grad(loss, argnums=(0, 1))(
      jnp.asarray(logits(0)), jnp.asarray(logits(1)))
  assert float(jnp.abs(to_student).sum()) > 0
  assert float(jnp.abs(to_teacher).sum()) == 0


def test_ramp_up_starts_at_e_to_minus_five_and_ends_at_one():
  values = [float(unlabelled_losses.ramp_up(jnp.asarray(step), 10.0))
            for step in (0, 5, 10, 50)]
  np.testing.assert_allclose(
      values, [np.exp(-5), np.exp(-1.25), 1.0, 1.0], rtol=1e-6)
  assert float(unlabelled_losses.ramp_up(jnp.asarray(0), 0.0)) == 1.0


def test_nt_xent_is_equation_one_and_ignores_padding():
  first, second, temperature = logits(0, 6), logits(1, 6), 0.5
  mask = np.array([1, 1, 1, 1, 0, 0], np.float32)
  ours = unlabelled_losses.nt_xent(
      jnp.asarray(first), jnp.asarray(second), mask, temperature=temperature)
  views = np.concatenate([first[:4], second[:4]]).astype(np.float64)
  views /= np.linalg.norm(views, axis=1, keepdims=True)
  expected = np.zeros(8)
  for i in range(8):
    others = [np.exp(views[i] @ views[k] / temperature)
              for k in range(8) if k != i]
    own = np.exp(views[i] @ views[(i + 4) % 8] / temperature)
    expected[i] = -np.log(own / sum(others))
  np.testing.assert_allclose(
      ours[:4], (expected[:4] + expected[4:]) / 2, atol=1e-6, rtol=1e-5)
