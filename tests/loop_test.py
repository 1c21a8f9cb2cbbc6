"""The loop: resume to the bit, devices, best weights, guards."""

import json
import signal
import subprocess
import sys
import time
import warnings

import jax
import numpy as np
import pytest

import data_helpers
import run_helpers
from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import guard
from vision_jax import interrupt
from vision_jax import loop
from vision_jax import modes
from vision_jax import writers
from vision_jax.data import errors

EIGHT = {'XLA_FLAGS': '--xla_force_host_platform_device_count=8'}


def interrupted(tmp_path, config, sign, step, **variables):
  """Runs `config` in tmp_path/run in another process, ended by `sign`."""
  path = tmp_path / 'config.json'
  path.write_text(config.to_json())
  return subprocess.run(
      [sys.executable, 'tests/interrupted.py', str(path),
       str(tmp_path / 'run'), str(int(sign)), str(step)],
      cwd=run_helpers.ROOT, capture_output=True, text=True, check=False,
      timeout=300, env=run_helpers.environment(tmp_path, **variables))


def assert_same_run(one, other):
  """Final weights, metrics by epoch and predictions agree to the bit."""
  a, b = checkpoint.load_weights(one), checkpoint.load_weights(other)
  assert jax.tree.all(jax.tree.map(np.array_equal, a, b))
  for name in ('metrics.jsonl', 'metrics.csv', 'predictions.csv'):
    assert (one / name).read_bytes() == (other / name).read_bytes(), name


def make_config(**fields):
  """Dropout, augmentation, an average of weights, checkpoints inside epochs."""
  return run_helpers.make_config(**{
      'augment__flip_horizontal': True, 'optimizer__ema_decay': 0.9,
      'checkpoint__every_steps': 2, **fields})


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  folder = tmp_path_factory.mktemp('straight')
  loop.train(make_config(), folder)
  return folder


@pytest.mark.parametrize('step', [2, 6, 9])
def test_a_killed_run_ends_with_the_same_bits(tmp_path, straight, step):
  config = make_config()
  process = interrupted(tmp_path, config, signal.SIGKILL, step)
  assert process.returncode == -signal.SIGKILL, process.stderr
  began = time.perf_counter()
  result = loop.train(config, tmp_path / 'run')
  elapsed = time.perf_counter() - began
  assert_same_run(straight, tmp_path / 'run')
  spent = json.loads((tmp_path / 'run' / 'seconds.json').read_text())
  assert len(spent) == 2
  # What the first process spent on whole epochs counts, too.
  assert (spent[0] > 0) == (step > 6)
  assert spent[0] < result['seconds'] <= spent[0] + elapsed


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_cleanly(tmp_path, straight, number):
  config = make_config(checkpoint__every_steps=0)
  process = interrupted(tmp_path, config, number, 3)
  assert process.returncode == 0, process.stderr
  assert f'Stopped by {number.name} after step 3' in process.stdout
  assert ('again stops at once' in process.stderr) == (number == signal.SIGINT)
  assert (tmp_path / 'run' / 'checkpoints' / '3').is_dir()
  loop.train(config, tmp_path / 'run')
  assert_same_run(straight, tmp_path / 'run')


def test_a_second_ctrl_c_stops_at_once():
  # Workers of pytest-xdist ignore the signal.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with pytest.raises(KeyboardInterrupt), interrupt.watch() as request:
      signal.raise_signal(signal.SIGINT)
      assert request.stop == 'SIGINT'
      signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
  finally:
    signal.signal(signal.SIGINT, before)


def test_an_ignored_signal_stays_ignored():
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with interrupt.watch() as request:
      signal.raise_signal(signal.SIGINT)
    assert not request.stop
  finally:
    signal.signal(signal.SIGINT, before)


def test_eight_devices_train_as_one_and_their_checkpoint_opens_on_one(
    tmp_path, straight):
  config = make_config()
  process = interrupted(tmp_path, config, signal.SIGKILL, 9, **EIGHT)
  assert process.returncode == -signal.SIGKILL, process.stderr
  rows = writers.read_rows(straight / 'metrics.jsonl')
  eight = writers.read_rows(tmp_path / 'run' / 'metrics.jsonl')
  assert len(eight) == 1
  for name, value in eight[0].items():
    np.testing.assert_allclose(value, rows[0][name], atol=2e-5, err_msg=name)
  loop.train(config, tmp_path / 'run')
  rows = writers.read_rows(tmp_path / 'run' / 'metrics.jsonl')
  assert [row['epoch'] for row in rows] == [1, 2]


def test_a_finished_run_is_not_repeated(straight):
  before = (straight / 'result.json').stat().st_mtime_ns
  result = loop.train(make_config(), straight)
  assert (straight / 'result.json').stat().st_mtime_ns == before
  assert result['test']['n'] == 12


def test_every_example_is_predicted_once(straight):
  lines = (straight / 'predictions.csv').read_text().splitlines()
  ids = [int(line.split(',')[0]) for line in lines[1:]]
  assert len(ids) == len(set(ids)) == 12


def test_another_config_in_the_same_folder_is_refused(straight):
  with pytest.raises(config_lib.ConfigError, match='train.epochs was 2, now 3'):
    loop.train(make_config(train__epochs=3), straight)


def test_a_run_without_its_data_leaves_no_folder_in_the_way(tmp_path):
  data_helpers.write_folders(tmp_path, {
      f'{split}/{name}': 4
      for split in ('train', 'validation', 'test') for name in 'ab'})
  config = make_config(
      data__source='folders', data__path='images', data__channels=3,
      data__image_size=(16, 16), data__root=str(tmp_path / 'nowhere'))
  with pytest.raises(errors.DataError, match='nowhere'):
    loop.train(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
  right = config_lib.replace(config, data__root=str(tmp_path))
  loop.train(right, tmp_path / 'run')
  assert (tmp_path / 'run' / 'result.json').is_file()


def test_the_best_weights_are_tested_also_at_the_last_epoch(tmp_path):
  # A rate that soon destroys what it has learnt.
  config = run_helpers.make_config(
      optimizer__learning_rate=0.3, train__epochs=5)
  result = loop.train(config, tmp_path / 'run')
  rows = writers.read_rows(tmp_path / 'run' / 'metrics.jsonl')
  losses = [row['validation_loss'] for row in rows]
  assert result['best_epoch'] == 1 + int(np.argmin(losses)) < 5
  np.testing.assert_allclose(
      result['validation']['loss'], min(losses), rtol=1e-6)
  # What was exported are the weights that gave it.
  found = modes.evaluate(config, tmp_path / 'run', split='validation')
  np.testing.assert_allclose(found['loss'], min(losses), rtol=1e-5)


def test_gradual_unfreezing_warns_of_nothing(tmp_path):
  config = run_helpers.make_config(
      optimizer__unfreeze_epochs=1.0, train__max_steps=1)
  with warnings.catch_warnings():
    warnings.filterwarnings('error', message='Trainable weights')
    result = loop.train(config, tmp_path / 'run')
  # The step that is looked at was made, with an encoder that may train.
  assert result['steps'] == 1
  assert result['parameters']['frozen'] == 0


def test_a_wrong_mode_is_found_before_training(tmp_path):
  config = run_helpers.make_config(callbacks__mode='maximum')
  with pytest.raises(config_lib.ConfigError, match="callbacks.mode='maximum'"):
    loop.train(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_early_stopping_ends_the_run(tmp_path):
  config = run_helpers.make_config(
      optimizer__learning_rate=1e-12, callbacks__patience=2,
      callbacks__min_delta=1.0, train__epochs=9)
  result = loop.train(config, tmp_path / 'run')
  assert result['stopped_early']
  assert result['epochs'] == 3


def test_an_infinite_loss_stops_with_its_step_and_keeps_a_good_checkpoint(
    tmp_path):
  config = run_helpers.make_config(
      optimizer__name='sgd', optimizer__learning_rate=1e30,
      train__epochs=3, checkpoint__every_steps=1)
  with pytest.raises(guard.NonFiniteError, match=r'step \d+.*metric loss'):
    loop.train(config, tmp_path / 'run')
  for path in (tmp_path / 'run' / 'checkpoints').glob('[0-9]*'):
    with checkpoint.open_manager(
        tmp_path / 'run', config.checkpoint) as manager:
      tree = manager.restore(int(path.name))
    assert jax.tree.all(jax.tree.map(
        lambda leaf: np.isfinite(leaf).all(), tree['state']['params']))


def test_a_streamed_run_equals_a_resident_one(tmp_path, straight):
  loop.train(make_config(data__resident_megabytes=0), tmp_path / 'run')
  assert_same_run(straight, tmp_path / 'run')


@pytest.mark.parametrize('fields,reason', [
    (dict(train__refine='crtt'), 'train.refine'),
    (dict(train__refine='crt', task='reconstruction'), 'needs a classifier'),
    (dict(train__refine='thresholds', data__validation_fraction=0.0,
          callbacks__monitor='train_loss'), 'validation examples'),
    (dict(data__validation_fraction=0.0), 'no validation'),
    (dict(data__test_fraction=0.0), 'nothing to test'),
], ids=str)
def test_what_could_not_end_is_not_begun(tmp_path, fields, reason):
  with pytest.raises((config_lib.ConfigError, errors.DataError), match=reason):
    loop.train(run_helpers.make_config(**fields), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('fields', [
    dict(checkpoint__every_epochs=0),
    dict(checkpoint__every_epochs=0, checkpoint__every_steps=3),
    dict(checkpoint__every_epochs=10, callbacks__patience=1,
         optimizer__learning_rate=0.0),
], ids=str)
def test_the_last_step_of_a_run_is_saved(tmp_path, fields):
  result = loop.train(run_helpers.make_config(**fields), tmp_path)
  saved = [int(path.name) for path in (tmp_path / 'checkpoints').iterdir()
           if path.name.isdigit()]
  assert max(saved) == result['steps']


def test_max_steps_shortens_a_run_and_never_lengthens_it(tmp_path):
  long = loop.train(run_helpers.make_config(train__epochs=2), tmp_path / 'a')
  for limit, wanted in ((3, 3), (1000, long['steps'])):
    result = loop.train(run_helpers.make_config(
        train__epochs=2, train__max_steps=limit), tmp_path / str(limit))
    assert result['steps'] == wanted


def test_raw_weights_stay_beside_the_best_average(tmp_path):
  loop.train(run_helpers.make_config(
      optimizer__ema_decay=0.9, callbacks__restore_best=True), tmp_path)
  weights = checkpoint.load_weights(tmp_path)
  average, raw = (jax.tree.leaves(weights[name]) for name in ('params', 'raw'))
  assert len(average) == len(raw)
  assert any(np.any(a != b) for a, b in zip(average, raw))
