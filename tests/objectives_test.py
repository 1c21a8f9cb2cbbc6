"""The training objective by name: each against a formula, and its refusals."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import run_helpers
from vision_jax import config as config_lib
from vision_jax import objectives
from vision_jax import task as task_lib

_COUNTS = np.array([40, 10, 2])
_INFO = task_lib.Info(('a', 'b', 'c'), (8, 8, 3), 5, tuple(_COUNTS))
_LOGITS = np.random.default_rng(0).normal(size=(6, 3))
_LABELS = np.array([0, 1, 2, 0, 2, 1])
_MASK = np.array([1.0, 1, 1, 1, 1, 0])
_BATCH = {'label': jnp.array(_LABELS), 'mask': jnp.array(_MASK)}


def _run(batch=None, step=0, **fields):
  config = run_helpers.make_config(**fields)
  total, each = objectives.make(config, _INFO)(
      jnp.asarray(_LOGITS, jnp.float32), batch or _BATCH, jnp.int32(step))
  return float(total), np.asarray(each)


def _cross_entropy(logits):
  return special.logsumexp(logits, axis=1) - logits[np.arange(6), _LABELS]


def test_plain_cross_entropy_is_the_default():
  total, each = _run()
  expected = _cross_entropy(_LOGITS)
  np.testing.assert_allclose(each, expected, rtol=1e-6)
  assert total == pytest.approx(expected[:5].mean(), rel=1e-6)


@pytest.mark.parametrize('reduction', ['examples', 'weights'])
def test_class_weights_by_both_reductions(reduction):
  total, _ = _run(loss__weights='inverse', loss__reduction=reduction)
  weights = (52 / (3 * _COUNTS))[_LABELS] * _MASK
  expected = (weights * _cross_entropy(_LOGITS)).sum() / (
      5 if reduction == 'examples' else weights.sum())
  assert total == pytest.approx(expected, rel=1e-6)


def test_deferred_weights_start_at_their_epoch():
  fields = dict(loss__weights='effective', loss__defer_epochs=2)
  plain = _cross_entropy(_LOGITS)[:5].mean()
  assert _run(step=9, **fields)[0] == pytest.approx(plain, rel=1e-6)
  numbers = (1 - 0.999 ** _COUNTS) / (1 - 0.999)
  weights = (1 / numbers)[_LABELS] * _MASK
  expected = (weights * _cross_entropy(_LOGITS)).sum() / weights.sum()
  assert _run(step=10, **fields)[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('name,shift', [
    ('balanced_softmax', np.log(_COUNTS)),
    ('logit_adjusted', 2 * np.log(_COUNTS / 52))])
def test_shifted_losses_take_the_counts_of_the_training_split(name, shift):
  _, each = _run(loss__name=name, loss__tau=2.0)
  np.testing.assert_allclose(each, _cross_entropy(_LOGITS + shift), rtol=1e-5)


def test_remix_gives_the_label_to_the_rare_class():
  batch = _BATCH | {
      'target': jnp.full((6, 3), 1 / 3), 'share': jnp.full(6, 0.4),
      'partner': jnp.array([2, 0, 1, 1, 0, 5])}
  _, each = _run(batch, augment__mixup_alpha=1.0, augment__remix_kappa=3.0)
  log_p = _LOGITS - special.logsumexp(_LOGITS, axis=1, keepdims=True)
  # Row 0: 40 against 2 with a small share gives all to the partner. Row 1: 10
  # against 40, but the other image has .6 of the mixture, so nothing changes.
  assert each[0] == pytest.approx(-log_p[0, 2], rel=1e-5)
  assert each[1] == pytest.approx(
      -(0.4 * log_p[1, 1] + 0.6 * log_p[1, 0]), rel=1e-5)


@pytest.mark.parametrize('fields,message', [
    (dict(loss__name='focale'), "did you mean 'focal'"),
    (dict(loss__weights='inverted'), 'loss.weights'),
    (dict(loss__reduction='mean'), 'loss.reduction'),
    (dict(loss__name='focal', train__label_smoothing=0.1), 'label_smoothing'),
    (dict(augment__remix_kappa=3.0), 'mixup_alpha')])
def test_refusals_name_the_field(fields, message):
  with pytest.raises(config_lib.ConfigError, match=message):
    _run(**fields)
