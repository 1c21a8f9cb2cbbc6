"""Losses against imbalance, each against its formula written anew in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from vision_jax import imbalance_losses
from vision_jax import losses

_RNG = np.random.default_rng(3)
_LOGITS = _RNG.normal(0, 2, (12, 5))
_LABELS = np.r_[0, 1, 2, 3, 4, _RNG.integers(0, 5, 7)]
_COUNTS = np.array([60, 42, 11, 3, 1])
_SOFT = _RNG.dirichlet(np.ones(5), 12)
_NEAR = dict(rtol=1e-6, atol=1e-6)


def _log_softmax(logits):
  return logits - special.logsumexp(logits, axis=1, keepdims=True)


def _cross_entropy(logits, labels):
  return -_log_softmax(logits)[np.arange(len(labels)), labels]


def _f32(x):
  return jnp.asarray(x, jnp.float32)


def test_inverse_weights_are_scikit_learns():
  from sklearn.utils import class_weight
  labels = np.repeat(np.arange(5), _COUNTS)
  np.testing.assert_allclose(
      imbalance_losses.inverse_weights(_COUNTS),
      class_weight.compute_class_weight(
          'balanced', classes=np.arange(5), y=labels), **_NEAR)


@pytest.mark.parametrize('beta', [0.0, 0.9, 0.999, 0.9999])
def test_effective_weights(beta):
  # The effective number as the source's recursion has it, not in closed form.
  numbers = []
  for n in _COUNTS:
    effective = 1.0
    for _ in range(n - 1):
      effective = 1 + beta * effective
    numbers.append(effective)
  expected = 1 / np.array(numbers)
  np.testing.assert_allclose(
      imbalance_losses.effective_weights(_COUNTS, beta=beta),
      expected / expected.sum() * 5, rtol=1e-6)


def test_one_example_by_both_reductions():
  # A rare example with weight 9.55 against one with .19 (studies' trap).
  values, weights = _f32([1.0, 2.0]), _f32([9.55, 0.19])
  ones = jnp.ones(2)
  mean = lambda by, mask=ones: float(imbalance_losses.weighted_mean(
      values, weights, mask, by=by))
  assert mean('examples') == pytest.approx((9.55 + 0.38) / 2, rel=1e-6)
  assert mean('weights') == pytest.approx((9.55 + 0.38) / 9.74, rel=1e-6)
  assert mean('examples', _f32([1, 0])) == pytest.approx(9.55, rel=1e-6)
  assert mean('weights', _f32([1, 0])) == pytest.approx(1.0, rel=1e-6)
  assert mean('weights', jnp.zeros(2)) == 0
  with pytest.raises(ValueError, match='weights'):
    mean('mean')


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_weighted_cross_entropy_as_in_pytorch(smoothing):
  torch = pytest.importorskip('torch')
  weights = imbalance_losses.inverse_weights(_COUNTS)
  each = imbalance_losses.example_weights(_f32(weights), jnp.array(_LABELS))
  values = losses.cross_entropy(_f32(_LOGITS), jnp.array(_LABELS))
  theirs = lambda reduction: float(torch.nn.functional.cross_entropy(
      torch.tensor(_LOGITS), torch.tensor(_LABELS),
      weight=torch.tensor(weights), reduction=reduction))
  mean = lambda by: float(imbalance_losses.weighted_mean(
      values, each, jnp.ones(12), by=by))
  assert mean('weights') == pytest.approx(theirs('mean'), rel=1e-6)
  assert mean('examples') == pytest.approx(theirs('sum') / 12, rel=1e-6)
  smooth = float(torch.nn.functional.cross_entropy(
      torch.tensor(_LOGITS), torch.tensor(_LABELS),
      label_smoothing=smoothing))
  ours = losses.cross_entropy(
      _f32(_LOGITS), jnp.array(_LABELS), smoothing=smoothing).mean()
  assert float(ours) == pytest.approx(smooth, rel=1e-6)


@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
def test_focal(gamma):
  p = special.softmax(_LOGITS, axis=1)[np.arange(12), _LABELS]
  np.testing.assert_allclose(
      imbalance_losses.focal(_f32(_LOGITS), jnp.array(_LABELS), gamma=gamma),
      -(1 - p) ** gamma * np.log(p), **_NEAR)


def test_focal_has_a_finite_gradient_where_the_network_is_certain():
  gradient = jax.grad(lambda z: imbalance_losses.focal(
      z, jnp.array([0]), gamma=0.5).sum())(jnp.array([[200.0, 0.0]]))
  assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize('largest,scale', [(0.5, 30.0), (0.3, 1.0)])
def test_ldam(largest, scale):
  cosines = _LOGITS / np.abs(_LOGITS).max()
  margins = 1 / np.sqrt(np.sqrt(_COUNTS))
  margins *= largest / margins.max()
  expected = []
  for z, y in zip(cosines, _LABELS):
    own = np.exp(scale * (z[y] - margins[y]))
    others = np.exp(scale * np.delete(z, y)).sum()
    expected.append(-np.log(own / (own + others)))
  np.testing.assert_allclose(
      imbalance_losses.ldam(
          _f32(cosines), jnp.array(_LABELS), _COUNTS, largest=largest,
          scale=scale), expected, **_NEAR)


def test_deferred_weights_wait():
  weights = lambda epoch: imbalance_losses.deferred(
      imbalance_losses.effective_weights(_COUNTS, beta=0.9999),
      jnp.int32(epoch), start=40)
  assert np.all(weights(39) == 1)
  expected = (1 - 0.9999) / (1 - 0.9999 ** _COUNTS)
  np.testing.assert_allclose(
      weights(40), expected / expected.sum() * 5, rtol=1e-6)


@pytest.mark.parametrize('tau', [0.5, 1.0, 2.0])
def test_logit_adjustment(tau):
  shares = _COUNTS / _COUNTS.sum()
  # Pairwise form of the source's equation 10, not a shifted softmax.
  expected = []
  for z, y in zip(_LOGITS, _LABELS):
    ratio = (shares / shares[y]) ** tau * np.exp(z - z[y])
    expected.append(np.log(1 + np.delete(ratio, y).sum()))
  np.testing.assert_allclose(
      imbalance_losses.logit_adjusted(
          _f32(_LOGITS), jnp.array(_LABELS), _COUNTS, tau=tau),
      expected, **_NEAR)
  after = special.softmax(
      imbalance_losses.adjust(_f32(_LOGITS), _COUNTS, tau=tau), axis=1)
  scaled = special.softmax(_LOGITS, axis=1) / shares ** tau
  np.testing.assert_allclose(
      after, scaled / scaled.sum(1, keepdims=True), **_NEAR)


def test_balanced_softmax():
  scaled = _COUNTS * np.exp(_LOGITS)
  expected = -np.log(scaled[np.arange(12), _LABELS] / scaled.sum(1))
  actual = imbalance_losses.balanced_softmax(
      _f32(_LOGITS), jnp.array(_LABELS), _COUNTS)
  np.testing.assert_allclose(actual, expected, **_NEAR)
  np.testing.assert_allclose(actual, imbalance_losses.logit_adjusted(
      _f32(_LOGITS), jnp.array(_LABELS), _COUNTS, tau=1.0), **_NEAR)


def test_soft_labels_agree_with_hard_ones_and_mix_weights():
  hard, soft = jnp.array(_LABELS), _f32(np.eye(5)[_LABELS])
  for loss in (
      lambda y: imbalance_losses.focal(_f32(_LOGITS), y, gamma=2.0),
      lambda y: imbalance_losses.ldam(
          _f32(_LOGITS), y, _COUNTS, largest=0.5, scale=1.0),
      lambda y: imbalance_losses.balanced_softmax(
          _f32(_LOGITS), y, _COUNTS),
      lambda y: imbalance_losses.example_weights(_f32(_COUNTS), y)):
    np.testing.assert_allclose(loss(hard), loss(soft), **_NEAR)
  mixed = imbalance_losses.balanced_softmax(
      _f32(_LOGITS), _f32(_SOFT), _COUNTS)
  adjusted = _log_softmax(_LOGITS + np.log(_COUNTS))
  np.testing.assert_allclose(mixed, -(_SOFT * adjusted).sum(1), **_NEAR)


def test_remix_share():
  for share in np.linspace(0, 1, 21):
    for own, partner in ((60, 4), (4, 60), (30, 11), (60, 60), (30, 10)):
      expected = share
      if own / partner >= 3 and share < 0.5:
        expected = 0.0
      elif own / partner <= 1 / 3 and 1 - share < 0.5:
        expected = 1.0
      actual = imbalance_losses.remix_share(
          _f32(share), own, partner, kappa=3.0, tau=0.5)
      assert float(actual) == pytest.approx(expected, abs=1e-6)
