"""Fewer bits: half a step of error, exact integer sums, the same answers."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import safetensors.numpy

import run_helpers
from experiments import quantise as experiment
from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import prediction
from vision_jax import quantisation
from vision_jax import runs
from vision_jax import writers
from vision_jax.models import layers
from vision_jax.models import unet

qwix = pytest.importorskip('qwix')


@pytest.fixture(name='finished', scope='module')
def _finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  run = runs.build(run_helpers.make_config())
  state = runs.init_state(run)
  # What a finished run leaves, without the time to train it.
  writers.prepare(folder, run.config)
  checkpoint.export(folder, state.variables())
  writers.write_json(folder / 'result.json', {
      'name': 'run', 'task': 'classification', 'protocol': 'sound', 'seed': 0,
      'class_names': list(run.info.class_names)})
  return folder, run, state


def variables_of(*shapes):
  rng = np.random.default_rng(0)
  return {'params': {f'layer_{i}': {
      'kernel': rng.normal(size=shape) * rng.lognormal(size=shape[-1]),
      'bias': rng.normal(size=shape[-1:])} for i, shape in enumerate(shapes)}}


@pytest.mark.parametrize('shape', [(3, 3, 4, 8), (5, 5, 1, 6), (7, 9)])
def test_a_weight_is_off_by_half_a_step_of_its_channel_at_most(shape):
  variables = variables_of(shape)
  kernel = variables['params']['layer_0']['kernel'].astype(np.float32)
  made = quantisation.quantise(variables, 'int8')
  array = made.arrays['params/layer_0/kernel']
  # The step, from the formula: the largest magnitude of the channel / 127.5.
  step = np.abs(kernel).reshape(-1, shape[-1]).max(0) / 127.5
  np.testing.assert_allclose(np.ravel(array.scale), step, rtol=1e-6)
  assert array.qvalue.dtype == jnp.int8
  found = quantisation.dequantise(made)['params']['layer_0']
  error = np.abs(found['kernel'] - kernel)
  assert np.all(error <= step * (0.5 + 1e-4))
  assert error.max() > 0.4 * step.min()
  # Eight bits of mantissa for the rest.
  bias = variables['params']['layer_0']['bias']
  np.testing.assert_allclose(found['bias'], bias, rtol=2**-8)


def test_a_channel_of_zeros_stays_zero():
  variables = {'params': {'dense': {'kernel': np.zeros((4, 2))}}}
  found = quantisation.dequantise(quantisation.quantise(variables, 'int8'))
  np.testing.assert_array_equal(found['params']['dense']['kernel'], 0)


@pytest.mark.parametrize('scheme, limit', [
    ('float32', 1.0), ('bfloat16', 0.51), ('int8', 0.27)])
def test_files_hold_what_was_saved_and_are_smaller(tmp_path, scheme, limit):
  variables = variables_of((3, 3, 64, 128), (2048, 64))
  made = quantisation.quantise(variables, scheme)
  path = tmp_path / quantisation.FILE
  quantisation.save(path, made)
  loaded = quantisation.load(path)
  assert loaded.scheme == scheme and loaded.arrays.keys() == made.arrays.keys()
  jax.tree.map(np.testing.assert_array_equal, loaded.arrays, made.arrays)
  size = sum(x.size for x in jax.tree.leaves(variables)) * 4
  assert path.stat().st_size <= limit * size + 2000


def test_wrong_schemes_and_files_are_refused(tmp_path):
  with pytest.raises(config_lib.ConfigError, match="did you mean 'int8'"):
    quantisation.quantise(variables_of((2, 2)), 'int88')
  with pytest.raises(config_lib.ConfigError, match='calibrate'):
    quantisation.quantise(variables_of((2, 2)), 'int8_activations')
  path = tmp_path / 'x.safetensors'
  safetensors.numpy.save_file({'a': np.zeros(2)}, path)
  with pytest.raises(config_lib.ConfigError, match='no quantised model'):
    quantisation.load(path)


def _simulate(x, limit):
  """The values an int8 input can take, by the formula."""
  step = limit / 127.5
  return np.clip(np.rint(x / step), -128, 127) * step


@pytest.mark.parametrize('options', [
    dict(strides=(2, 2)), dict(pool=True), dict(groups=4)],
                         ids=['strided', 'pooled', 'depthwise'])
def test_an_integer_convolution_is_that_of_the_rounded_numbers(options):
  from vision_jax.models import quantised
  rng = np.random.default_rng(1)
  x = rng.normal(size=(2, 8, 8, 4)).astype(np.float32)
  conv = layers.Conv(4 if 'groups' in options else 6, **options)
  variables = conv.init(jax.random.key(0), x)
  kernel = variables['params']['kernel']
  limit = 2.0  # Some inputs lie beyond it.
  array = qwix.quantize(kernel, jnp.int8, channelwise_axes=(3,))
  bias = jnp.arange(kernel.shape[-1], dtype=jnp.float32)
  with quantised.integers({'': limit}):
    found = conv.apply({'params': {'kernel': array, 'bias': bias}}, x)
  expected = conv.apply({'params': {
      'kernel': qwix.dequantize(array), 'bias': bias}}, _simulate(x, limit))
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_ranges_are_those_of_the_layers_inputs(finished):
  _, run, state = finished
  images = np.asarray(run.dataset.images[:20])
  ranges = quantisation.calibrate(run.task, state, images, batch_size=8)
  assert set(ranges) == {
      'encoder/level_0', 'encoder/level_1', 'head/Dense_0', 'head/logits'}
  signed = 2 * (images / 255.0) - 1
  assert ranges['encoder/level_0'] == pytest.approx(np.abs(signed).max(), 1e-5)
  encoder = unet.Encoder((4, 8))
  first, second = encoder.apply(
      {'params': state.params['encoder']}, signed, train=False, method='levels')
  assert ranges['encoder/level_1'] == pytest.approx(float(first.max()), 1e-4)
  assert ranges['head/Dense_0'] == pytest.approx(float(second.max()), 1e-4)


@pytest.mark.parametrize('scheme', ['bfloat16', 'int8_activations'])
def test_an_exported_folder_predicts_as_its_run_did(
    finished, tmp_path, scheme):
  folder, run, state = finished
  images = np.asarray(run.dataset.images)
  ranges = (quantisation.calibrate(run.task, state, images[:40])
            if scheme == 'int8_activations' else None)
  made = quantisation.quantise(state.variables(), scheme, ranges=ranges)
  quantisation.export(run.config, folder, tmp_path, made)
  config = checkpoint.read_config(tmp_path)
  task, restored = quantisation.restore(config, run.info, tmp_path)
  batch = {'image': jnp.asarray(images, jnp.float32) / 255,
           'label': jnp.asarray(run.dataset.labels)}
  expected = run.task.eval_step(state, batch)['probabilities']
  found = jax.jit(task.eval_step)(restored, batch)['probabilities']
  np.testing.assert_allclose(found, expected, atol=0.04)
  assert np.abs(found - expected).max() > 1e-6


def test_the_experiment_measures_what_predict_uses(finished, tmp_path, capsys):
  folder, run, _ = finished
  experiment.main([
      '--root=.', f'--runs=tiny={folder}', '--calibration=8', '--repeats=3',
      f'--exports={tmp_path / "exports"}', f'--out={tmp_path}'])
  with (tmp_path / 'table.csv').open() as file:
    rows = {row['scheme']: row for row in csv.DictReader(file)}
  assert tuple(rows) == quantisation.SCHEMES
  plain = rows['float32']
  assert float(plain['agreement']) == 1 and float(plain['change']) == 0
  assert int(plain['n']) == len(run.dataset.splits['test'])
  assert 0.4 < float(rows['int8']['error_in_steps']) < 0.5001
  printed = capsys.readouterr().out
  assert f'n = {plain["n"]} test' in printed
  assert '## The runs\n\n- `tiny`: config `' in printed
  images = tmp_path / 'images'
  images.mkdir()
  for i in range(3):
    Image.fromarray(np.asarray(run.dataset.images[i])).save(
        images / f'{i}.png')
  target = tmp_path / 'exports' / 'tiny-int8_activations'
  guesses = prediction.predict(
      checkpoint.read_config(target), target, images)
  expected = prediction.predict(run.config, folder, images)
  names = run.info.class_names
  for one, other in zip(guesses, expected, strict=True):
    assert one['path'] == other['path']
    for name in names:
      assert one[name] == pytest.approx(other[name], abs=0.04)
