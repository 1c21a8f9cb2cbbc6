"""Backbones against torchvision, through its own files."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import torch_test
import weights_helpers

from vision_jax.models import backbones

torch = pytest.importorskip('torch')
if importlib.util.find_spec('torchvision') is None:
  pytest.skip('torchvision is not installed', allow_module_level=True)
pytestmark = pytest.mark.parity

NETWORKS = {
    'vgg16_torch': 'vgg16', 'vgg19_torch': 'vgg19',
    'resnet50_torch': 'resnet50', 'resnet101_torch': 'resnet101',
    'densenet121': 'densenet121', 'mobilenet_v2_torch': 'mobilenet_v2',
    'vit_b16_torch': 'vit_b_16', 'convnext_tiny': 'convnext_tiny'}
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def make(name, size):
  options = {'image_size': size} if name.startswith('vit') else {}
  model = getattr(references.torchvision_models(), NETWORKS[name])(
      num_classes=references.CLASSES, **options)
  return references.randomise_torch(model)


def to_torch(images):
  return torch_test.to_torch((images - MEAN) / DEVIATION)


@pytest.mark.parametrize('name, size', [
    ('vgg16_torch', 224), ('resnet50_torch', 96), ('resnet50_torch', 97),
    ('resnet101_torch', 75), ('densenet121', 97), ('mobilenet_v2_torch', 96),
    ('mobilenet_v2_torch', 75), ('vit_b16_torch', 64), ('convnext_tiny', 97)])
def test_logits_equal_torchvision(name, size, tmp_path):
  images = weights_helpers.images(size)
  model = make(name, size)
  with torch.no_grad():
    expected = model(to_torch(images)).numpy()
  assert weights_helpers.relative(expected[:1], expected[1:]) > 1e-2
  path = torch_test.save(model.state_dict(), tmp_path / 'zip.pth')
  spec = backbones.build(name, num_classes=references.CLASSES)
  variables = torch_test.load(spec, path, size)
  actual = jax.jit(lambda v, x: spec.module.apply(v, x, train=False))(
      variables, spec.preprocess(jnp.asarray(images)))
  assert weights_helpers.relative(actual, expected) < 1e-4


@pytest.mark.parametrize('name, size', [
    ('vgg19_torch', 65), ('resnet50_torch', 75), ('mobilenet_v2_torch', 131)])
def test_features_equal_torchvision(name, size, tmp_path):
  images = weights_helpers.images(size)
  model = make(name, size)
  path = torch_test.save(model.state_dict(), tmp_path / 'legacy.pth')
  if name.startswith('resnet'):
    model.fc = torch.nn.Identity()
    pooled = model
  else:
    pooled = lambda x: model.features(x).mean((2, 3))
  with torch.no_grad():
    expected = pooled(to_torch(images)).numpy()
  spec = backbones.build(name)
  actual = spec.module.apply(
      torch_test.load(spec, path, size),
      spec.preprocess(jnp.asarray(images)), train=False)
  assert weights_helpers.relative(actual, expected) < 1e-4


@pytest.mark.parametrize('name', ['resnet50_torch', 'mobilenet_v2_torch'])
def test_training_mode_equals_torchvision(name, tmp_path):
  size = 97
  images = weights_helpers.images(size, count=4)
  model = make(name, size).train()
  for module in model.modules():
    if isinstance(module, torch.nn.Dropout):
      module.p = 0.0
  spec = backbones.build(name, num_classes=references.CLASSES)
  variables = torch_test.load(
      spec, torch_test.save(model.state_dict(), tmp_path / 'zip.pth'), size)
  with torch.no_grad():
    expected = model(to_torch(images)).numpy()
  actual, updates = spec.module.apply(
      variables, spec.preprocess(jnp.asarray(images)), train=True,
      mutable=['batch_stats'])
  assert weights_helpers.relative(actual, expected) < 1e-3
  after = torch_test.load(
      spec, torch_test.save(model.state_dict(), tmp_path / 'after.pth'), size)
  first = 'conv1_bn' if name.startswith('resnet') else 'bn_Conv1'
  np.testing.assert_allclose(
      updates['batch_stats'][first]['mean'],
      after['batch_stats'][first]['mean'], rtol=1e-4, atol=1e-5)


def test_positions_are_resampled_as_pytorch_resamples(tmp_path):
  old, new = 96, 64
  model = make('vit_b16_torch', old)
  path = torch_test.save(model.state_dict(), tmp_path / 'zip.pth')
  state = model.state_dict()
  table = state['encoder.pos_embedding']
  grid = table[:, 1:].reshape(1, old // 16, old // 16, -1)
  grid = torch.nn.functional.interpolate(
      grid.permute(0, 3, 1, 2), size=(new // 16, new // 16), mode='bicubic',
      antialias=True)
  state['encoder.pos_embedding'] = torch.cat(
      [table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
  smaller = make('vit_b16_torch', new)
  smaller.load_state_dict(state)
  images = weights_helpers.images(new)
  with torch.no_grad():
    expected = smaller(to_torch(images)).numpy()
  spec = backbones.build('vit_b16_torch', num_classes=references.CLASSES)
  actual = spec.module.apply(
      torch_test.load(spec, path, new),
      spec.preprocess(jnp.asarray(images)), train=False)
  assert weights_helpers.relative(actual, expected) < 1e-4


@pytest.mark.parametrize('size', [107, 299])
def test_inception_equals_torchvision(size, tmp_path):
  """The features of the Fréchet inception distance, and the logits."""
  images = weights_helpers.images(size)
  model = references.randomise_torch(
      references.torchvision_models().inception_v3(
          num_classes=references.CLASSES, init_weights=False))
  path = torch_test.save(model.state_dict(), tmp_path / 'zip.pth')
  model.eval()
  with torch.no_grad():
    expected = {references.CLASSES: model(
        torch_test.to_torch(2 * images - 1)).numpy()}
    model.fc = torch.nn.Identity()
    expected[0] = model(torch_test.to_torch(2 * images - 1)).numpy()
  for classes, values in expected.items():
    spec = backbones.build('inception_v3_torch', num_classes=classes)
    variables = torch_test.load(spec, path, size)
    assert weights_helpers.relative(values[:1], values[1:]) > 1e-2
    actual = jax.jit(lambda v, x, m=spec.module: m.apply(v, x, train=False))(
        variables, spec.preprocess(jnp.asarray(images)))
    assert weights_helpers.relative(actual, values) < 1e-4
