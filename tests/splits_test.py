"""Properties of splits: stratified, nested, grouped, pure."""

import collections
import math

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

import data_helpers
from vision_jax.data import errors
from vision_jax.data import sources
from vision_jax.data import splits

BUTTERFLIES = (120, 123, 119, 145, 149, 121, 129, 118, 116, 156, 117, 123, 117,
               167, 117, 117, 117, 119, 133, 123)
FRACTIONS = (0.1, 0.25, 0.5, 0.75, 1.0)


def make_source(labels, groups=None, own=None):
  labels = np.asarray(labels, np.int32)
  n = len(labels)
  return sources.Source(
      name='test', class_names=tuple(map(str, range(labels.max() + 1))),
      ids=tuple(map(str, range(n))), labels=labels,
      splits=np.asarray(own if own is not None else [''] * n, str),
      groups=np.arange(n) if groups is None else np.asarray(groups),
      read=lambda i: b'')


@st.composite
def grouped_labels(draw):
  """Labels and groups of up to 5 classes; a group lies in one class."""
  labels, groups = [], []
  for label in range(draw(st.integers(1, 5))):
    for size in draw(st.lists(st.integers(1, 5), min_size=8, max_size=25)):
      groups += [len(set(groups))] * size
      labels += [label] * size
  shuffle = np.random.default_rng(draw(st.integers(0, 99))).permutation(
      len(labels))
  return np.array(labels)[shuffle], np.array(groups)[shuffle]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_every_prefix_of_the_order_is_stratified(counts, seed):
  labels = np.repeat(np.arange(len(counts)), counts)
  ordered = splits.order(labels, np.arange(len(labels)), seed=seed)
  assert sorted(ordered) == list(range(len(labels)))
  seen = np.cumsum(labels[ordered][:, None] == np.arange(len(counts)), axis=0)
  length = np.arange(1, len(labels) + 1)[:, None]
  share = length * np.array(counts) / sum(counts)
  # A class is never off its exact share by more than all classes' roundings.
  assert np.abs(seen - share).max() <= max(1, len(counts) / 2)


@given(grouped_labels(), st.integers(0, 9),
       st.sampled_from([0.0, 0.1, 0.2, 0.5]))
@settings(max_examples=40, deadline=None)
def test_groups_stay_whole_and_fractions_nest(data, seed, validation):
  labels, groups = data
  source = make_source(labels, groups)
  before = None
  for fraction in (0.4, 0.7, 1.0):
    parts = splits.make(source, data_helpers.make_config(
        split_seed=seed, label_fraction=fraction, test_fraction=0.1,
        validation_fraction=validation))
    rows = np.concatenate(list(parts.values()))
    assert sorted(rows) == list(range(len(labels)))
    homes = collections.defaultdict(set)
    for name, members in parts.items():
      for group in groups[members]:
        homes[group].add(name)
    assert all(len(names) == 1 for names in homes.values())
    assert len(parts['test']) >= math.ceil(0.1 * len(labels) - 1e-9)
    held = np.bincount(labels[parts['validation']], minlength=5)
    known = held + np.bincount(labels[parts['train']], minlength=5)
    assert np.all(held <= validation * known + 1e-9)
    if before:
      assert set(before['train']) <= set(parts['train'])
      assert set(before['validation']) <= set(parts['validation'])
      assert np.array_equal(before['test'], parts['test'])
    before = parts


def test_butterfly_counts_at_each_label_fraction():
  labels = np.repeat(np.arange(20), BUTTERFLIES)
  source = make_source(
      np.r_[labels, np.repeat(np.arange(20), 25), np.repeat(np.arange(20), 5)],
      own=['train'] * 2546 + ['test'] * 500 + ['validation'] * 100)
  sizes = []
  for fraction in FRACTIONS:
    parts = splits.make(source, data_helpers.make_config(
        label_fraction=fraction, validation_fraction=0.0))
    assert len(parts['test']) == 500 and len(parts['validation']) == 100
    assert len(parts['train']) + len(parts['unlabelled']) == 2546
    sizes.append(len(parts['train']))
    share = np.bincount(source.labels[parts['train']]) / np.array(BUTTERFLIES)
    assert np.abs(share - fraction).max() < 0.01
  assert sizes == [254, 636, 1273, 1909, 2546]


def test_validation_takes_the_ranks_of_the_formula():
  labels = np.repeat([0, 1], [40, 23])
  kwargs = dict(test_fraction=0.0, label_fraction=1.0, split_seed=3)
  parts = splits.make(make_source(labels), data_helpers.make_config(
      validation_fraction=0.15, **kwargs))
  ordered = splits.order(labels, np.arange(63), seed=3)
  expected = []
  for label in (0, 1):
    members = ordered[labels[ordered] == label]
    expected += [row for rank, row in enumerate(members)
                 if math.floor((rank + 1) * 0.15) > math.floor(rank * 0.15)]
  assert list(parts['validation']) == sorted(expected)
  assert len(expected) == 6 + 3


def test_test_fraction_is_rounded_up_as_in_the_species_study():
  labels = np.arange(11983) % 202
  parts = splits.make(make_source(labels), data_helpers.make_config(
      test_fraction=0.1, validation_fraction=0.0))
  assert len(parts['test']) == 1199


def test_order_depends_on_the_seed_and_on_nothing_else():
  labels = np.repeat(np.arange(4), 30)
  first = splits.order(labels, np.arange(120), seed=1)
  np.random.seed(5)
  assert np.array_equal(first, splits.order(labels, np.arange(120), seed=1))
  assert not np.array_equal(
      first, splits.order(labels, np.arange(120), seed=2))
  # Renumbering groups that keep their order changes nothing.
  assert np.array_equal(
      first, splits.order(labels, 7 * np.arange(120) + 3, seed=1))


def test_own_validation_split_is_joined_to_the_carved_one():
  source = make_source([0, 1] * 20, own=['train'] * 30 + ['validation'] * 10)
  parts = splits.make(source, data_helpers.make_config(
      test_fraction=0.0, validation_fraction=0.2))
  assert set(range(30, 40)) <= set(parts['validation'])
  assert len(parts['validation']) == 10 + 3 + 3


def test_a_class_without_training_examples_is_named():
  source = make_source([0] * 50 + [1] * 2)
  with pytest.raises(errors.DataError, match='(?s)label_fraction.*\n  1'):
    splits.make(source, data_helpers.make_config(
        label_fraction=0.1, test_fraction=0.0))


def test_a_group_of_two_classes_is_refused():
  with pytest.raises(ValueError, match='Group 7'):
    splits.order(np.array([0, 1]), np.array([7, 7]), seed=0)


@pytest.mark.parametrize('field, value', [
    ('test_fraction', 1.5), ('label_fraction', -0.5),
    ('validation_fraction', 1.0), ('split_seed', -1)])
def test_fields_out_of_range_are_named(field, value):
  config = data_helpers.make_config(**{field: value})
  message = f'config.data.{field} must .*{value}'
  with pytest.raises(errors.DataError, match=message):
    splits.make(make_source([0] * 9), config)
  # Whatever draws the splits.
  config.imbalance.kind = 'long_tail'
  with pytest.raises(errors.DataError, match=message):
    splits.make(make_source([0] * 9), config)
