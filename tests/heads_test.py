"""The head whose logits are cosines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision_jax import imbalance_losses
from vision_jax.models import heads


def _logits(features, specs=('average', 'cosine:30'), classes=3):
  head = heads.Head(classes, specs)
  variables = head.init(jax.random.key(0), features, train=False)
  return head, variables, head.apply(variables, features, train=False)


def _cosines(features, kernel):
  return np.array([[
      a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in kernel.T]
                   for a in features])


def test_logits_are_scaled_cosines_without_a_bias():
  features = jax.random.normal(jax.random.key(1), (4, 1, 1, 6))
  _, variables, logits = _logits(features)
  assert list(variables['params']['logits']) == ['kernel']
  kernel = np.asarray(variables['params']['logits']['kernel'], float)
  expected = 30 * _cosines(np.asarray(features[:, 0, 0], float), kernel)
  np.testing.assert_allclose(logits, expected, atol=1e-5)
  assert np.abs(logits).max() <= 30 and np.ptp(logits) > 1


def test_ldam_over_them_is_the_sources_loss():
  features = jax.random.normal(jax.random.key(1), (4, 1, 1, 6))
  _, variables, logits = _logits(features)
  counts, labels = np.array([16, 4, 1]), np.array([0, 1, 2, 1])
  loss = imbalance_losses.ldam(
      logits, labels, counts, largest=15.0, scale=1.0)
  cosines = _cosines(
      np.asarray(features[:, 0, 0], float),
      np.asarray(variables['params']['logits']['kernel'], float))
  margins = 0.5 * counts ** -0.25 / max(counts ** -0.25)
  for i, label in enumerate(labels):
    lowered = cosines[i].copy()
    lowered[label] -= margins[label]
    exponents = np.exp(30 * lowered)
    expected = -np.log(exponents[label] / exponents.sum())
    assert float(loss[i]) == pytest.approx(expected, rel=1e-4)


def test_features_of_zero_have_a_finite_gradient():
  features = jnp.zeros((2, 1, 1, 6))
  head, variables, _ = _logits(features)
  gradient = jax.grad(lambda x: head.apply(
      variables, x, train=False).sum())(features)
  assert np.all(np.isfinite(gradient))


def test_without_classes_the_features_come_out_as_they_are():
  features = jax.random.normal(jax.random.key(1), (4, 1, 1, 6))
  _, _, pooled = _logits(features, classes=0)
  np.testing.assert_array_equal(pooled, features[:, 0, 0])


@pytest.mark.parametrize('specs', [
    ('average', 'cosine'), ('average', 'cosine:0'), ('cosine:30',),
    ('average', 'cosine:inf')])
def test_bad_specs_are_named(specs):
  with pytest.raises(ValueError, match='cosine'):
    heads.parse_specs(specs)


def test_cosines_come_last():
  with pytest.raises(ValueError, match='it must be the last'):
    heads.parse_specs(('average', 'cosine:30', 'dense:4'))
