"""Early stopping and the plateau against what Keras 3 does, written out."""

import math

from hypothesis import given
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from vision_jax import callbacks
from vision_jax import config as config_lib

LOSSES = st.lists(
    st.floats(0, 2, width=32).map(lambda x: round(x, 3)), min_size=1,
    max_size=30)


def make_config(**fields):
  config = config_lib.base().callbacks
  config.update(fields)
  return config


def replay(values, config):
  """Returns the state after each epoch, stopping as the loop does."""
  state, states = callbacks.init(), []
  for epoch, value in enumerate(values, start=1):
    state, _ = callbacks.update(state, value, epoch, config=config)
    states.append(jax.device_get(state))
    if states[-1].stopped:
      break
  return states


def keras_stop(values, *, patience, min_delta):
  """(epochs run, best epoch), from Keras' documentation of EarlyStopping."""
  best, best_epoch, wait = math.inf, 0, 0
  for epoch, value in enumerate(values, start=1):
    wait += 1
    if value < best - min_delta:
      best, best_epoch, wait = value, epoch, 0
    elif wait >= patience and epoch > 1:  # Without NaN never in the first.
      return epoch, best_epoch
  return len(values), best_epoch


def keras_rates(values, *, patience, factor, min_delta, cooldown, floor):
  """Learning rate after each epoch, from ReduceLROnPlateau's description."""
  best, wait, quiet, rate, rates = math.inf, 0, 0, 1.0, []
  for value in values:
    if quiet > 0:
      quiet, wait = quiet - 1, 0
    if value < best - min_delta:
      best, wait = value, 0
    elif quiet == 0:
      wait += 1
      if wait >= patience and rate > floor:
        rate, quiet, wait = max(rate * factor, floor), cooldown, 0
    rates.append(rate)
  return rates


@given(LOSSES, st.integers(1, 5), st.sampled_from([0.0, 0.125]))
def test_early_stopping_is_keras(values, patience, min_delta):
  values = [float(np.float32(value)) for value in values]
  states = replay(values, make_config(patience=patience, min_delta=min_delta))
  epochs, best = keras_stop(values, patience=patience, min_delta=min_delta)
  assert (len(states), int(states[-1].best_epoch)) == (epochs, best)


@given(LOSSES, st.integers(1, 4), st.integers(0, 3), st.sampled_from([0, .2]))
def test_plateau_is_keras(values, patience, cooldown, floor):
  values = [float(np.float32(value)) for value in values]
  states = replay(values, make_config(
      plateau_patience=patience, plateau_cooldown=cooldown,
      plateau_min_scale=float(floor), plateau_min_delta=0.125))
  expected = keras_rates(
      values, patience=patience, factor=0.5, min_delta=0.125,
      cooldown=cooldown, floor=floor)
  np.testing.assert_allclose([s.rate_scale for s in states], expected)


@given(LOSSES)
def test_a_rising_metric_is_a_falling_loss(values):
  low = replay(values, make_config(patience=2))
  high = replay([-v for v in values], make_config(patience=2, mode='max'))
  assert jax.tree.all(jax.tree.map(np.array_equal, low, high))


@given(LOSSES, LOSSES)
def test_a_fit_does_not_remember_another(first, second):
  config = make_config(patience=2)
  alone = replay(second, config)
  replay(first, config)
  again = replay(second, config)
  assert jax.tree.all(jax.tree.map(np.array_equal, alone, again))


def test_nan_never_improves():
  states = replay([math.nan, math.nan, math.nan], make_config(patience=2))
  assert len(states) == 2
  assert states[-1].best_epoch == 0


def test_an_unknown_monitor_lists_what_there_is():
  with pytest.raises(config_lib.ConfigError, match='There are: train_loss'):
    callbacks.monitored({'train_loss': 1.0}, make_config())


def test_a_wrong_mode_names_its_field():
  with pytest.raises(config_lib.ConfigError, match="mean 'max'"):
    callbacks.sign(make_config(mode='maximum'))


@pytest.mark.parity
@pytest.mark.parametrize('seed', range(5))
def test_keras_itself_agrees(seed):
  keras = pytest.importorskip('keras')
  values = np.random.default_rng(seed).uniform(0, 1, 25).round(2).tolist()
  model = keras.Sequential([keras.layers.Dense(1)])
  model.build((None, 1))
  model.compile(keras.optimizers.SGD(1.0))
  stop = keras.callbacks.EarlyStopping('val_loss', patience=6)
  plateau = keras.callbacks.ReduceLROnPlateau(
      'val_loss', factor=0.5, patience=2, cooldown=1, min_delta=0.01)
  for callback in (stop, plateau):
    callback.set_model(model)
    callback.on_train_begin()
  rates = []
  model.stop_training = False
  for epoch, value in enumerate(values):
    for callback in (stop, plateau):
      callback.on_epoch_end(epoch, {'val_loss': value})
    rates.append(float(model.optimizer.learning_rate.numpy()))
    if model.stop_training:
      break
  states = replay(values, make_config(
      patience=6, plateau_patience=2, plateau_cooldown=1,
      plateau_min_delta=0.01))
  assert [float(s.rate_scale) for s in states] == rates
  assert int(states[-1].best_epoch) == stop.best_epoch + 1
