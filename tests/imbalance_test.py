"""Imbalanced sets: the study's table, nesting, and tests nobody trains on."""

import types

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

import data_helpers
from vision_jax.data import errors
from vision_jax.data import imbalance
from vision_jax.data import splits

_STUDY = (800, 435, 239, 200, 128, 37, 35, 34, 33, 32)
_LABELS = np.random.default_rng(0).permutation(
    np.repeat(np.arange(10), _STUDY))


def _step(rho, seed=0, **options):
  return imbalance.step(
      _LABELS, mu=0.5, rho=rho, total=320, seed=seed, **options)


def _count(rows):
  return np.bincount(_LABELS[rows], minlength=10).tolist()


@pytest.mark.parametrize('rho,sizes,train,own', [
    (1, (32, 32), (22, 22), (10, 10)), (3, (48, 16), (34, 11), (14, 5)),
    (7, (56, 8), (39, 6), (17, 2)), (15, (60, 4), (42, 3), (18, 1))])
def test_study_table(rho, sizes, train, own):
  sets = _step(rho)
  spread = lambda pair: [pair[0]] * 5 + [pair[1]] * 5
  assert _count(sets.train) == spread(train)
  assert _count(sets.own_test) == spread(own)
  assert _count(np.r_[sets.train, sets.own_test]) == spread(sizes)
  assert len(sets.train) + len(sets.own_test) == 320
  assert len(np.unique(np.r_[sets.train, sets.own_test])) == 320
  assert _count(sets.balanced_test) == [10] * 10


@pytest.mark.parametrize('seed', [0, 1, 17])
def test_nesting_and_one_test(seed):
  sets = {rho: _step(rho, seed) for rho in (1, 3, 7, 15)}
  whole = {rho: set(s.train) | set(s.own_test) for rho, s in sets.items()}
  rare = set(np.flatnonzero(_LABELS >= 5))
  for small, large, moved in ((1, 3, 16), (3, 7, 8), (7, 15, 4)):
    assert whole[large] & rare < whole[small] & rare
    assert whole[small] - rare < whole[large] - rare
    assert len(whole[small] - whole[large]) == 5 * moved
    assert len(whole[large] - whole[small]) == 5 * moved
  for each in sets.values():
    np.testing.assert_array_equal(each.balanced_test, sets[1].balanced_test)
    assert not set(each.balanced_test) & set(each.train)


def test_own_test_avoids_the_balanced_one_where_it_can():
  for rho in (3, 7, 15):
    sets = _step(rho)
    assert not set(sets.own_test) & set(sets.balanced_test)


def test_seed_alone_decides():
  np.testing.assert_array_equal(_step(3).train, _step(3).train)
  assert set(_step(3).train) != set(_step(3, seed=1).train)


def test_fixed_majority():
  for rho in (1, 3, 7, 15):
    sets = _step(rho, fixed='majority')
    whole = _count(np.r_[sets.train, sets.own_test])
    assert whole == [32] * 5 + [int(32 / rho + 0.5)] * 5


def test_long_tail():
  rho, total = 20.0, 320
  sets = imbalance.long_tail(_LABELS, rho=rho, total=total, seed=0)
  whole = np.array(_count(np.r_[sets.train, sets.own_test]))
  exact = rho ** (-np.arange(10) / 9)
  assert whole.sum() == total
  assert np.abs(whole - total * exact / exact.sum()).max() < 1
  assert whole[0] / whole[-1] == pytest.approx(rho, rel=0.2)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    mu=st.floats(0, 0.99), rho=st.floats(1, 40), total=st.integers(60, 400),
    classes=st.integers(2, 12))
def test_counts_add_up_and_follow_the_profile(mu, rho, total, classes):
  minority = int(mu * classes + 0.5)
  if rho > 1 and minority in (0, classes):
    with pytest.raises(errors.DataError, match='imbalance.minority_share'):
      imbalance.step_profile(classes, mu=mu, rho=rho)
    return
  profile = imbalance.step_profile(classes, mu=mu, rho=rho)
  exact = total * profile / profile.sum()
  if exact.min() < 1:
    return
  sizes = imbalance.class_counts(profile, total)
  assert sizes.sum() == total
  assert np.abs(sizes - exact).max() < 1
  assert np.all(np.diff(sizes) <= 0)
  assert (profile < 1).sum() == (minority if rho > 1 else 0)


@pytest.mark.parametrize('options,message', [
    (dict(mu=0.5, rho=15, total=100_000), 'imbalance.total'),
    (dict(mu=0.5, rho=200, total=320), 'imbalance.ratio'),
    (dict(mu=1.0, rho=2, total=320), 'mu=1.0'),
    (dict(mu=0.95, rho=10, total=320), 'minority_share=0.95 puts 10 of 10'),
    (dict(mu=0.04, rho=10, total=320), 'minority_share=0.04 puts 0 of 10'),
    (dict(mu=0.5, rho=0.5, total=320), 'rho=0.5')])
def test_impossible_requests_name_the_remedy(options, message):
  with pytest.raises(errors.DataError, match=message):
    imbalance.step(_LABELS, seed=0, **options)


def _source(**fields):
  return types.SimpleNamespace(**(dict(
      labels=_LABELS, splits=np.full(1973, ''), groups=np.arange(1973),
      class_names=tuple('abcdefghij')) | fields))


def _config(**fields):
  data = data_helpers.make_config()
  data.imbalance.update({'kind': 'step', 'ratio': 15.0} | fields)
  return data


def test_splits_of_a_run():
  parts = splits.make(_source(), _config())
  sets = _step(15)
  np.testing.assert_array_equal(parts['train'], sets.train)
  np.testing.assert_array_equal(parts['test'], sets.balanced_test)
  np.testing.assert_array_equal(parts['validation'], sets.own_test)
  assert sum(map(len, parts.values())) == 1973
  # At 1:1 the two tests must share images; validation gives them up.
  parts = splits.make(_source(), _config(ratio=1.0))
  assert not set(parts['validation']) & set(parts['test'])
  own = splits.make(_source(), _config(test='own'))
  np.testing.assert_array_equal(own['test'], sets.own_test)
  assert not len(own['validation'])


@pytest.mark.parametrize('fields', [
    dict(splits=np.full(1973, 'train')), dict(groups=np.zeros(1973, int))])
def test_data_with_splits_or_groups_is_refused(fields):
  with pytest.raises(errors.DataError, match='imbalance.kind="none"'):
    splits.make(_source(**fields), _config())


def test_wrong_choices_list_the_right_ones():
  with pytest.raises(errors.DataError, match='long_tail'):
    splits.make(_source(), _config(kind='longtail'))
  with pytest.raises(errors.DataError, match="'majority'"):
    splits.make(_source(), _config(fixed='minority'))
