"""Tests of the losses, against scikit-learn and formulas in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from vision_jax import losses


def _logits(rng, batch=7, classes=5):
  return rng.normal(size=(batch, classes)).astype(np.float32)


def test_cross_entropy_equals_sklearn():
  rng = np.random.default_rng(0)
  logits = _logits(rng)
  labels = rng.integers(0, 5, 7)
  probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  expected = metrics.log_loss(labels, probabilities, labels=range(5))
  got = losses.cross_entropy(logits, labels)
  assert got.shape == (7,)
  np.testing.assert_allclose(got.mean(), expected, rtol=1e-6)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_soft_labels_and_smoothing(smoothing):
  rng = np.random.default_rng(1)
  logits = _logits(rng)
  target = rng.dirichlet(np.ones(5), 7).astype(np.float32)
  smooth = (1 - smoothing) * target + smoothing / 5
  logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  np.testing.assert_allclose(
      losses.cross_entropy(logits, target, smoothing=smoothing),
      -(smooth * logs).sum(1), rtol=1e-5)


def test_integers_and_one_hot_agree():
  logits = _logits(np.random.default_rng(2))
  labels = np.arange(7) % 5
  np.testing.assert_array_equal(
      losses.cross_entropy(logits, labels, smoothing=0.2),
      losses.cross_entropy(
          logits, np.eye(5, dtype=np.float32)[labels], smoothing=0.2))


def test_mean_squared_error_equals_sklearn():
  rng = np.random.default_rng(3)
  a, b = rng.uniform(size=(2, 4, 6, 6, 3)).astype(np.float32)
  got = losses.mean_squared_error(jnp.asarray(a), jnp.asarray(b))
  for i in range(4):
    np.testing.assert_allclose(
        got[i], metrics.mean_squared_error(a[i].ravel(), b[i].ravel()), 1e-5)


def test_masked_mean_ignores_padding():
  values = jnp.asarray([1.0, 2.0, 600.0])
  np.testing.assert_allclose(
      losses.masked_mean(values, jnp.asarray([1.0, 1.0, 0.0])), 1.5)
  np.testing.assert_allclose(losses.masked_mean(values, jnp.zeros(3)), 0.0)


def test_l2_is_of_kernels_and_not_of_embeddings():
  params = {'dense': {'kernel': jnp.full((2, 1), 3.0), 'bias': jnp.ones(1)},
            'embed': {'embedding': jnp.ones((4, 5))},
            'cls_token': jnp.ones((1, 1, 4))}
  moves = {'dense': {'kernel': True, 'bias': True},
           'embed': {'embedding': True}, 'cls_token': True}
  assert losses.kernel_squares(params, moves) == 18.0
  moves['dense']['kernel'] = False
  assert losses.kernel_squares(params, moves) == 0.0


@pytest.mark.parametrize('call', [
    lambda: losses.cross_entropy(jnp.zeros((4, 3)), jnp.zeros((4, 1))),
    lambda: losses.cross_entropy(jnp.zeros((4, 3)), jnp.zeros(3, int)),
    lambda: losses.mean_squared_error(jnp.zeros((4, 3)), jnp.zeros((4, 1))),
    lambda: losses.masked_mean(jnp.zeros(4), jnp.zeros((4, 1))),
])
def test_shapes_that_would_broadcast_are_refused(call):
  with pytest.raises(ValueError, match=r'\(4, 3\)|\(4,\)'):
    call()
