"""Backbones against Keras 3 on its JAX backend, through its own files."""

from flax import traverse_util
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import weights_helpers

from vision_jax import pretrained
from vision_jax.models import backbones

pytest.importorskip('keras')
pytestmark = pytest.mark.parity

SIZES = {'vgg16': 64, 'vgg19': 65, 'resnet50': 97, 'resnet101': 64,
         'densenet121': 97, 'mobilenet_v2': 131, 'efficientnet_b0': 97,
         'efficientnet_b1': 64, 'efficientnet_b2': 65, 'efficientnet_b3': 131,
         'convnext_tiny': 97}


def load(spec, path, size):
  shapes = jax.eval_shape(
      lambda: spec.module.init(
          {'params': jax.random.key(0)}, jnp.zeros((1, size, size, 3)),
          train=False))
  return pretrained.load(spec, path, shapes)


def apply(spec, variables, images, **options):
  function = lambda v, x: spec.module.apply(v, x, **options)
  return jax.jit(function)(variables, spec.preprocess(jnp.asarray(images)))


def save(model, path):
  if path.name.endswith('.weights.h5'):
    model.save_weights(path)
  else:
    model.save(path)
  return path


@pytest.mark.parametrize('ending', ['.h5', '.weights.h5'])
@pytest.mark.parametrize('name', references.KERAS)
def test_outputs_equal_keras(name, ending, tmp_path):
  size = SIZES[name]
  images = weights_helpers.images(size)
  inputs = references.keras_input(name, images.copy())
  for top in (True, False):
    model = references.keras_model(name, size, top=top, seed=len(ending))
    expected = np.asarray(model(inputs, training=False))
    path = save(model, tmp_path / f'{name}{top}{ending}')
    spec = backbones.build(name, num_classes=references.CLASSES * top)
    variables = load(spec, path, size)
    actual = apply(spec, variables, images, train=False)
    assert weights_helpers.relative(actual, expected) < 1e-4
    # Or else any code at all would pass.
    assert weights_helpers.relative(expected[:1], expected[1:]) > 1e-2
    if top:
      spec = backbones.build(name)
      headless = load(spec, path, size)
      pooled = apply(spec, headless, images, train=False)
    else:
      assert weights_helpers.relative(pooled, expected) < 1e-4
      count = sum(x.size for x in jax.tree.leaves(variables))
      assert count == model.count_params()


# ResNet101 has a test of its own below.
@pytest.mark.parametrize('name', [
    'resnet50', 'densenet121', 'mobilenet_v2', 'efficientnet_b0',
    'efficientnet_b3'])
def test_training_mode_equals_keras(name, tmp_path):
  size = SIZES[name]
  images = weights_helpers.images(size, count=4)
  model = references.keras_model(name, size, top=False)
  path = save(model, tmp_path / 'x.h5')
  inputs = references.keras_input(name, images.copy())
  expected, moved = model.stateless_call(
      model.trainable_variables, model.non_trainable_variables, inputs,
      training=True)
  options = {'drop_path': 0.0} if name.startswith('eff') else {}
  spec = backbones.build(name, **options)
  variables = load(spec, path, size)
  actual, updates = apply(
      spec, variables, images, train=True, mutable=['batch_stats'])
  assert weights_helpers.relative(actual, expected) < 1e-3
  for weight, value in zip(model.non_trainable_variables, moved, strict=True):
    weight.assign(value)
  after = load(spec, save(model, tmp_path / 'after.h5'), size)
  worst = max(jax.tree.leaves(jax.tree.map(
      lambda a, b: float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)),
      updates['batch_stats'], after['batch_stats'])))
  assert worst < 1e-5
  moved = jax.tree.map(
      lambda a, b: not np.allclose(a, b), variables['batch_stats'],
      updates['batch_stats'])
  moved.pop('normalization', None)
  assert all(jax.tree.leaves(moved))


def moved_statistics(name, images, dtype):
  """Keras' features and {layer/role: statistics} after a step in `dtype`."""
  import keras
  keras.config.set_floatx(dtype)
  try:
    model = references.keras_model(name, images.shape[1], top=False)
  finally:
    keras.config.set_floatx('float32')
  output, moved = jax.jit(
      lambda *args: model.stateless_call(*args, training=True))(
          [v.value for v in model.trainable_variables],
          [v.value for v in model.non_trainable_variables],
          jnp.asarray(references.keras_input(name, images.copy()), dtype))
  assert output.dtype == dtype
  return np.asarray(output), {
      references.weight_name(weight): np.asarray(value) for weight, value
      in zip(model.non_trainable_variables, moved, strict=True)}


def test_resnet101_trains_as_near_to_float64_as_keras_does(tmp_path):
  # Its depth amplifies rounding: Keras' own float32 lies 2.5e-5 from Keras'
  # float64 in the moving statistics and 2.5e-4 in the features, and so no
  # two float32 programs can be asked to agree to the bars of the others.
  name, size = 'resnet101', 64
  images = weights_helpers.images(size, count=4)
  features, moved = moved_statistics(name, images, 'float32')
  with jax.enable_x64(True):
    exact_features, exact = moved_statistics(name, images, 'float64')
  spec = backbones.build(name)
  path = save(references.keras_model(name, size, top=False), tmp_path / 'x.h5')
  actual, updates = apply(
      spec, load(spec, path, size), images, train=True,
      mutable=['batch_stats'])
  roles = {'mean': 'moving_mean', 'var': 'moving_variance'}
  ours = {
      f'{"_".join(module)}/{roles[leaf]}': value
      for (*module, leaf), value in traverse_util.flatten_dict(
          updates['batch_stats']).items()}
  assert ours.keys() == exact.keys()
  worst = lambda found: max(
      np.abs(found[key] - value).max() / max(np.abs(value).max(), 1e-3)
      for key, value in exact.items())
  assert worst(ours) < 2 * worst(moved) < 1e-4
  assert weights_helpers.relative(actual, exact_features) < 2 * (
      weights_helpers.relative(features, exact_features)) < 1e-3


@pytest.mark.parametrize('name', references.KERAS)
def test_preprocessing_equals_keras(name):
  images = weights_helpers.images(33)
  expected = references.keras_input(name, images.copy())
  actual = backbones.build(name).preprocess(jnp.asarray(images))
  assert weights_helpers.relative(actual, expected) < 1e-5


@pytest.mark.parametrize('ending', ['.h5', '.weights.h5'])
def test_extra_rescaling_of_imagenet_graph(ending, tmp_path, monkeypatch):
  import keras
  from keras.src.applications import efficientnet
  keras.backend.clear_session()
  monkeypatch.setattr(efficientnet.file_utils, 'get_file', lambda *a, **k: '')
  monkeypatch.setattr(
      efficientnet.Functional, 'load_weights', lambda *a, **k: None)
  size = 97
  model = references.randomise(efficientnet.EfficientNetB0(
      weights='imagenet', include_top=False, pooling='avg',
      input_shape=(size, size, 3)))
  monkeypatch.undo()
  images = weights_helpers.images(size)
  stddev = np.array([0.229, 0.224, 0.225], np.float32)
  layer = next(l for l in model.layers if l.name.startswith('normalization'))
  layer.adapt_mean.assign([0.485, 0.456, 0.406])
  layer.adapt_variance.assign(stddev**2)
  layer.finalize_state()
  expected = np.asarray(model(images * np.float32(255), training=False))
  path = save(model, tmp_path / f'x{ending}')
  spec = backbones.build('efficientnet_b0')
  actual = apply(spec, load(spec, path, size), images, train=False)
  assert weights_helpers.relative(actual, expected) < 1e-4
  if ending == '.weights.h5':
    return
  # The published file comes from a Keras that had no such layer.
  with h5py.File(path, 'a') as file:
    group = file['model_weights']
    group.attrs['keras_version'] = b'2.4.0'
    names = [n for n in group.attrs['layer_names'] if 'rescaling_1' not in n]
    group.attrs['layer_names'] = names
  actual = apply(spec, load(spec, path, size), images, train=False)
  assert weights_helpers.relative(actual, expected) < 1e-4
