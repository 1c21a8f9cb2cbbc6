"""Hyperband: sizes of the brackets, who is promoted, what is spent."""

import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from vision_jax import hyperband


def test_the_ninety_trials_of_study_four():
  rungs = hyperband.brackets(40, 3)
  assert [[count for count, _ in bracket] for bracket in rungs] == [
      [34, 12, 4, 2], [15, 5, 2], [8, 3], [5]]
  assert [[epochs for _, epochs in bracket] for bracket in rungs] == [
      [2, 5, 14, 40], [5, 14, 40], [14, 40], [40]]
  assert sum(count for bracket in rungs for count, _ in bracket) == 90


@pytest.mark.parametrize('epochs', [1, 7, 10, 40, 100, 1000])
@pytest.mark.parametrize('factor', [2, 3, 4])
def test_sizes_follow_keras_tuner(epochs, factor):
  # Its formulas, in floats, which are exact away from powers of the factor.
  theirs = []
  for bracket in range(int(math.log(epochs, factor)), -1, -1):
    end = math.ceil(1 + math.log(epochs, factor)) / (bracket + 1)
    theirs.append([(
        math.ceil(end * factor**(bracket - rung)),
        math.ceil(epochs / factor**(bracket - rung)))
                   for rung in range(bracket + 1)])
  assert hyperband.brackets(epochs, factor) == theirs


def test_an_exact_power_is_not_taken_for_more():
  # math.log(243, 3) is 4.999999999999999.
  rungs = hyperband.brackets(243, 3)
  assert [epochs for _, epochs in rungs[0]] == [1, 3, 9, 27, 81, 243]
  assert rungs[-1] == [(6, 243)]


@given(st.integers(1, 500), st.integers(2, 6))
def test_every_bracket_ends_at_the_last_epoch(epochs, factor):
  for bracket in hyperband.brackets(epochs, factor):
    counts, lengths = zip(*bracket)
    assert lengths[-1] == epochs
    assert list(lengths) == sorted(lengths)
    assert list(counts) == sorted(counts, reverse=True)
    assert counts[-1] >= 1


@pytest.mark.parametrize('epochs,factor', [(0, 3), (10, 1)])
def test_too_small_arguments_are_refused(epochs, factor):
  with pytest.raises(ValueError, match='at least'):
    hyperband.brackets(epochs, factor)


def test_survivors_are_the_best_and_nan_is_not():
  assert hyperband.survivors([.2, float('nan'), .9, .2, .5], 3) == [0, 2, 4]
  assert hyperband.survivors([float('nan'), -5.0], 1) == [1]


def test_run_promotes_the_best_and_trains_them_on():
  calls = []
  values = np.random.default_rng(0).permutation(62)
  def train(setting, value, epochs):
    calls.append((setting, epochs))
    return float(value)
  trials = hyperband.run(
      lambda setting: values[setting], train, max_epochs=40, factor=3)
  assert len(trials) == len(calls) == 90
  first = [t for t in trials if t.bracket == 0]
  for rung, count in enumerate([34, 12, 4, 2]):
    chosen = {t.values for t in first if t.rung == rung}
    assert chosen == set(sorted(values[:34])[-count:])
  assert {t.setting for t in trials} == set(range(62))
