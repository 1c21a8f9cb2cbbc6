"""Samplers: how often each class and example comes, epoch after epoch."""

import numpy as np
import pytest

from vision_jax.data import errors
from vision_jax.data import samplers

_COUNTS = np.array([42, 42, 3, 3])
_LABELS = np.random.default_rng(1).permutation(
    np.repeat(np.arange(4), _COUNTS))


def _order(name, epoch=0, seed=0, epochs=10):
  return samplers.order(
      name, _LABELS, seed=seed, epoch=epoch, epochs=epochs)


def _classes(name, **options):
  return np.bincount(_LABELS[_order(name, **options)], minlength=4)


@pytest.mark.parametrize('name', samplers.SAMPLERS)
def test_pure_in_range_and_of_constant_length(name):
  length = samplers.length(name, _LABELS)
  for epoch in (0, 3, 9):
    places = _order(name, epoch)
    np.testing.assert_array_equal(places, _order(name, epoch))
    assert len(places) == length
    assert places.min() >= 0 and places.max() < len(_LABELS)
  assert _order(name, 1).tolist() != _order(name, 2).tolist()
  assert _order(name, 1).tolist() != _order(name, 1, seed=5).tolist()


def test_shuffled_visits_each_once():
  assert sorted(_order('shuffled')) == list(range(90))


@pytest.mark.parametrize('name,sampler,module', [
    ('over', 'RandomOverSampler', 'over_sampling'),
    ('under', 'RandomUnderSampler', 'under_sampling')])
def test_counts_of_imbalanced_learn(name, sampler, module):
  imblearn = pytest.importorskip(f'imblearn.{module}')
  _, theirs = getattr(imblearn, sampler)(random_state=0).fit_resample(
      np.arange(90)[:, None], _LABELS)
  assert _classes(name).tolist() == np.bincount(theirs).tolist()


def test_over_keeps_every_example_and_under_repeats_none():
  assert set(_order('over')) == set(range(90))
  places = _order('under')
  assert len(set(places)) == len(places)
  assert set(places) != set(_order('under', 1))


def test_class_aware_takes_turns():
  places = _order('class_aware')
  assert sorted(np.bincount(_LABELS[places])) == [22, 22, 23, 23]
  for start in range(0, 88, 4):
    assert len(set(_LABELS[places[start:start + 4]])) == 4
  # Of three examples, 22 visits are at least seven each.
  visits = np.bincount(places, minlength=90)
  assert visits[_LABELS == 3].min() >= 7


@pytest.mark.parametrize('name,epoch,shares', [
    ('square_root', 0, np.sqrt(_COUNTS) / np.sqrt(_COUNTS).sum()),
    ('progressive', 0, _COUNTS / 90),
    ('progressive', 9, np.full(4, 0.25)),
    ('progressive', 3, 2 / 3 * _COUNTS / 90 + 1 / 3 * 0.25)])
def test_shares_of_drawn_classes(name, epoch, shares):
  drawn = np.mean([
      _classes(name, epoch=epoch, seed=seed) for seed in range(200)], 0)
  error = 4 * np.sqrt(shares * (1 - shares) / (90 * 200))
  assert np.all(np.abs(drawn / 90 - shares) < error)


def test_unknown_sampler_lists_the_known():
  with pytest.raises(errors.DataError, match='class_aware'):
    _order('classaware')
