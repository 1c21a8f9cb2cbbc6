"""Backbones: golden outputs of Keras and PyTorch, counts, levels, stages."""

import functools
import json
import re

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import weights_helpers

from vision_jax import pretrained
from vision_jax.models import backbones
from vision_jax.models import remat
from vision_jax.models import vit

GOLDEN = (
    'vgg16', 'resnet50', 'resnet50_torch', 'densenet121', 'mobilenet_v2',
    'mobilenet_v2_torch', 'efficientnet_b0', 'efficientnet_lite0', 'vit_s16',
    'convnext_tiny')
# Parameters and statistics without the classifier, as Keras, timm and
# torchvision count.
COUNTS = {
    'vgg16': 14_714_688, 'vgg19': 20_024_384, 'resnet50': 23_587_712,
    'resnet101': 42_658_176, 'densenet121': 7_037_504,
    'resnet50_torch': 23_561_152, 'resnet101_torch': 42_605_504,
    'mobilenet_v2': 2_257_984, 'efficientnet_b0': 4_049_571,
    'efficientnet_b1': 6_575_239, 'efficientnet_b2': 7_768_569,
    'efficientnet_b3': 10_783_535, 'vit_s16': 21_665_664,
    'vit_b16': 85_798_656, 'convnext_tiny': 27_820_128,
    # torchvision's 27,161,264 less 2,049,000 and 3,326,696 of the classifiers,
    # and the moving statistics.
    'inception_v3_torch': 21_785_568 + 34_432}
# Top-level modules of the classifiers.
HEADS = {'predictions', 'fc', 'fc1', 'fc2', 'head', 'head_dense'}


@functools.cache
def shapes_of(name, size=64, classes=3):
  spec = backbones.build(name, num_classes=classes)
  return spec, jax.eval_shape(
      lambda: spec.module.init(
          jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False))


def write_file(name, tensors, folder):
  """A weight file in the layout of the family, with tensors by name."""
  if name in ('vit_s16', 'efficientnet_lite0') or name.endswith('_torch'):
    import safetensors.numpy
    path = folder / f'{name}.safetensors'
    safetensors.numpy.save_file(
        {key: value for key, value in tensors.items()}, path)
    return path
  layers = {}
  for key, value in tensors.items():
    layers.setdefault(key.split('/')[0], {})[key] = value
  path = folder / f'{name}.h5'
  weights_helpers.write_legacy(path, layers)
  return path


@pytest.mark.parametrize('name', GOLDEN)
def test_output_equals_golden(name, tmp_path):
  golden = np.load(weights_helpers.GOLDEN / f'{name}.npz')
  size = int(golden['size'])
  tensors = {
      key: weights_helpers.tensor(key, tuple(shape))
      for key, shape in json.loads(str(golden['tensors'])).items()}
  spec, shapes = shapes_of(name, size, int(golden['classes']))
  variables = pretrained.load(
      spec, write_file(name, tensors, tmp_path), shapes)
  inputs = spec.preprocess(jnp.asarray(weights_helpers.images(size)))
  assert weights_helpers.relative(
      inputs[0, 0, :5], golden['preprocessed']) < 1e-5
  output = jax.jit(lambda v, x: spec.module.apply(v, x, train=False))(
      variables, inputs)
  assert weights_helpers.relative(output, golden['output']) < 1e-4


@pytest.mark.parametrize('name', COUNTS)
def test_counts_without_classifier(name):
  size = 224 if name.startswith('vit') else 64
  spec, shapes = shapes_of(name, size)
  flat = traverse_util.flatten_dict(dict(shapes), sep='/')
  assert COUNTS[name] == sum(
      leaf.size for path, leaf in flat.items()
      if not path.split('/')[1] in HEADS)


@pytest.mark.parametrize('name', backbones.NAMES)
def test_stages_divide_the_parameters_and_name_the_levels(name):
  spec, shapes = shapes_of(name, 224 if name.startswith('vit') else 64)
  stages = []
  for path in traverse_util.flatten_dict(dict(shapes['params']), sep='/'):
    owners = [
        stage for stage, pattern in spec.stages.items()
        if re.fullmatch(pattern, path)]
    expected = 0 if path.split('/')[0] in HEADS else 1
    assert len(owners) == expected, (path, owners)
    stages += owners
  assert set(stages) == set(spec.stages)


@pytest.mark.parametrize('name', GOLDEN)
def test_levels_shrink_from_the_input_to_the_output(name):
  spec, shapes = shapes_of(name, 64, 0)
  maps = jax.eval_shape(
      lambda v: spec.module.apply(
          v, jnp.zeros((2, 64, 64, 3)), train=False,
          levels=tuple(spec.stages), method='features'), shapes)
  sizes = [m.shape[1] for m in maps]
  assert sizes == sorted(sizes, reverse=True)
  assert all(m.ndim == 4 and m.shape[0] == 2 for m in maps)


@pytest.mark.parametrize('name, blocks', [
    ('vgg16', 5), ('resnet50', 16), ('densenet121', 61), ('mobilenet_v2', 17),
    ('efficientnet_b0', 16), ('vit_s16', 12), ('convnext_tiny', 18),
    ('inception_v3_torch', 11)])
def test_every_block_can_be_checkpointed(name, blocks, monkeypatch):
  calls = []
  def run(function, module, x):
    calls.append(module.name)
    return function(module, x)
  monkeypatch.setattr(remat, 'run', run)
  size = 224 if name.startswith('vit') else 64
  spec, shapes = shapes_of(name, size)
  jax.eval_shape(lambda v: spec.module.clone(remat=True).apply(
      v, jnp.zeros((1, size, size, 3)), train=False), shapes)
  assert len(calls) == blocks


@functools.cache
def mobilenet():
  spec, shapes = shapes_of('mobilenet_v2', 64, 0)
  x = spec.preprocess(jnp.asarray(weights_helpers.images(33)))
  return spec, weights_helpers.variables(shapes), x


def test_last_level_pools_to_the_features():
  spec, variables, x = mobilenet()
  last, first = jax.jit(lambda v: spec.module.apply(
      v, x, train=False, levels=('stride32', 'stride2'), method='features'))(
          variables)
  pooled = jax.jit(lambda v: spec.module.apply(v, x, train=False))(variables)
  np.testing.assert_allclose(last.mean((1, 2)), pooled, rtol=1e-4, atol=1e-5)
  assert first.shape == (2, 17, 17, 16)


def test_unknown_level_and_name_are_errors():
  spec, shapes = shapes_of('vgg16', 64, 0)
  with pytest.raises(ValueError, match='block9.*block1'):
    jax.eval_shape(
        lambda v: spec.module.apply(
            v, jnp.zeros((1, 32, 32, 3)), train=False, levels=('block9',),
            method='features'), shapes)
  with pytest.raises(ValueError, match='resnet51.*resnet50'):
    backbones.build('resnet51')


@pytest.mark.parametrize('old, new', [(14, 4), (4, 6), (6, 5)])
def test_positions_are_resampled_as_pillow_resamples(old, new):
  table = np.random.default_rng(0).normal(size=(1, old**2 + 1, 2))
  table = table.astype(np.float32)
  result = vit.resample_positions(table, (1, new**2 + 1, 2))
  np.testing.assert_array_equal(result[:, 0], table[:, 0])
  for channel in range(2):
    grid = Image.fromarray(table[0, 1:, channel].reshape(old, old))
    expected = np.asarray(grid.resize((new, new), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(
        result[0, 1:, channel].reshape(new, new), expected, atol=1e-5)


def test_positions_of_no_square_grid_stay_and_do_not_fit():
  table = np.zeros((1, 13, 2), np.float32)  # 3 x 4 patches
  assert vit.resample_positions(table, (1, 17, 2)) is table


def test_vit_refuses_sizes_that_are_no_multiple_of_its_patch():
  with pytest.raises(ValueError, match='multiples of 16, not 50x50'):
    shapes_of('vit_s16', 50)


@pytest.mark.parametrize('train', [False, True])
def test_statistics_move_in_training_alone_and_constants_never(train):
  spec, shapes = shapes_of('efficientnet_b0', 64, 0)
  variables = weights_helpers.variables(shapes)
  x = spec.preprocess(jnp.asarray(weights_helpers.images(33)))
  _, updates = jax.jit(lambda v: spec.module.apply(
      v, x, train=train, mutable=['batch_stats'],
      rngs={'dropout': jax.random.key(1)}))(variables)
  moved = jax.tree.map(
      lambda a, b: not np.array_equal(a, b), variables['batch_stats'],
      updates['batch_stats'])
  assert not any(jax.tree.leaves(moved.pop('normalization')))
  assert all(move == train for move in jax.tree.leaves(moved))


def test_half_precision_computes_near_full_with_float32_parameters():
  spec, variables, x = mobilenet()
  half = backbones.build('mobilenet_v2', dtype=jnp.bfloat16)
  output = jax.jit(lambda v: half.module.apply(v, x, train=False))(variables)
  assert output.dtype == jnp.bfloat16
  expected = jax.jit(lambda v: spec.module.apply(v, x, train=False))(variables)
  # Eight bits of mantissa through fifty layers.
  assert np.corrcoef(
      np.ravel(output.astype(jnp.float32)), np.ravel(expected))[0, 1] > 0.99
  created = jax.eval_shape(
      lambda: half.module.init(jax.random.key(0), x, train=False))
  assert {leaf.dtype for leaf in jax.tree.leaves(created)} == {
      jnp.dtype('float32')}
