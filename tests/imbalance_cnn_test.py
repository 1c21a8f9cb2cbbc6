"""The study's CNN: its table of sizes, its parameters, a twin in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision_jax.models import imbalance_cnn
from vision_jax.models import layers


def _init(model, pixels=227):
  blank = jnp.zeros((1, pixels, pixels, 3))
  return jax.eval_shape(
      lambda key: model.init(key, blank, train=False), jax.random.key(0))


def _sizes(padding):
  """Output sizes layer by layer, by the rule floor((n + 2p - k) / s) + 1."""
  sizes, n = [], 227
  for k, s, p in ((7, 2, 0), (3, 2, 0), (5, 1, 2), (3, 2, 0),
                  (3, 1, padding), (3, 2, 0), (3, 1, 1), (3, 2, 0)):
    n = (n + 2 * p - k) // s + 1
    sizes.append(n)
  return sizes


@pytest.mark.parametrize('padding,sizes', [
    (1, [111, 55, 55, 27, 27, 13, 13, 6]),
    (2, [111, 55, 55, 27, 29, 14, 14, 6])])
def test_sizes(padding, sizes):
  assert _sizes(padding) == sizes
  model = imbalance_cnn.make(10, conv3_padding=padding)
  variables = _init(model)
  _, state = jax.eval_shape(
      lambda v: model.apply(
          v, jnp.zeros((1, 227, 227, 3)), train=False,
          capture_intermediates=True, mutable='intermediates'), variables)
  captured = state['intermediates']['encoder']
  convolved = [captured[f'conv{i}']['__call__'][0].shape for i in range(1, 5)]
  assert [shape[1] for shape in convolved] == sizes[::2]
  assert [shape[-1] for shape in convolved] == [32, 64, 128, 128]
  assert captured['__call__'][0].shape == (1, 6, 6, 128)


def test_parameters():
  count = lambda model: layers.count_parameters(
      *(lambda v: (v['params'], v.get('batch_stats', {})))(_init(model)))
  assert count(imbalance_cnn.make(10))['total'] == 2_642_378
  assert count(imbalance_cnn.make(3))['total'] == 2_637_248 + 513 * 3
  normalised = count(imbalance_cnn.make(10, batch_norm=True))
  assert normalised['trainable'] == 2_642_378 + 704
  assert normalised['frozen'] == 704


def test_initialisation():
  # The smallest image: the first dense kernel is 128 x 512.
  params = jax.jit(lambda: imbalance_cnn.make(10).init(
      jax.random.key(0), jnp.zeros((1, 67, 67, 3)), train=False)['params'])()
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if path[-1].key == 'bias':
      assert not leaf.any()
    else:
      error = 4 * 0.01 / np.sqrt(leaf.size)
      assert abs(float(leaf.mean())) < error
      assert abs(float(leaf.std()) - 0.01) < error


def test_too_small_an_image_is_an_error():
  with pytest.raises(ValueError, match='67 pixels'):
    _init(imbalance_cnn.make(10), pixels=66)
  _init(imbalance_cnn.make(10), pixels=67)


def _twin(torch, batch_norm, padding):
  nn = torch.nn
  parts, before = [], 3
  for width, k, s, p in ((32, 7, 2, 0), (64, 5, 1, 2), (128, 3, 1, padding),
                         (128, 3, 1, 1)):
    parts.append(nn.Conv2d(before, width, k, s, p))
    if batch_norm:
      parts.append(nn.BatchNorm2d(width))
    parts += [nn.ReLU(), nn.MaxPool2d(3, 2)]
    before = width
  return nn.Sequential(
      *parts, nn.Flatten(), nn.Linear(4608, 512), nn.ReLU(),
      nn.Linear(512, 10))


def _copy(torch, twin, variables):
  """Copies weights and statistics, with the features of fc1 in CHW order."""
  params = variables['params']
  encoder, head = params['encoder'], params['head']
  put = lambda target, value: target.data.copy_(
      torch.from_numpy(np.array(value)))
  convs = [m for m in twin if isinstance(m, torch.nn.Conv2d)]
  norms = [m for m in twin if isinstance(m, torch.nn.BatchNorm2d)]
  for i, module in enumerate(convs, 1):
    put(module.weight, encoder[f'conv{i}']['kernel'].transpose(3, 2, 0, 1))
    put(module.bias, encoder[f'conv{i}']['bias'])
  for i, module in enumerate(norms, 1):
    put(module.weight, encoder[f'norm{i}']['scale'])
    put(module.bias, encoder[f'norm{i}']['bias'])
    stats = variables['batch_stats']['encoder'][f'norm{i}']
    put(module.running_mean, stats['mean'])
    put(module.running_var, stats['var'])
  first, last = (m for m in twin if isinstance(m, torch.nn.Linear))
  kernel = head['Dense_0']['kernel'].reshape(6, 6, 128, 512)
  put(first.weight, kernel.transpose(3, 2, 0, 1).reshape(512, -1))
  put(first.bias, head['Dense_0']['bias'])
  put(last.weight, head['logits']['kernel'].T)
  put(last.bias, head['logits']['bias'])


@pytest.mark.parametrize('batch_norm,padding', [(False, 1), (True, 2)])
def test_twin_in_pytorch(batch_norm, padding):
  torch = pytest.importorskip('torch')
  model = imbalance_cnn.make(
      10, batch_norm=batch_norm, conv3_padding=padding)
  rng = np.random.default_rng(0)
  x = rng.uniform(-127.5, 127.5, (2, 227, 227, 3)).astype(np.float32)
  variables = jax.jit(lambda: model.init(
      jax.random.key(0), x[:1], train=False))()
  # Kernels that keep the scale of their input, biases and statistics of
  # their own, so that an error anywhere reaches the logits.
  def leaf(path, value):
    if path[-1].key == 'kernel':
      fan_in = value.size / value.shape[-1]
      scale = 0.01 if path[-2].key == 'conv1' else 1.0
      return scale * rng.normal(0, np.sqrt(2 / fan_in), value.shape)
    return rng.uniform(0.5, 1.5, value.shape)
  variables = jax.tree_util.tree_map_with_path(
      lambda p, v: leaf(p, v).astype(np.float32), variables)
  twin = _twin(torch, batch_norm, padding)
  _copy(torch, twin, variables)
  twin.eval()
  with torch.no_grad():
    expected = twin(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
  actual = jax.jit(lambda v: model.apply(v, x, train=False))(variables)
  np.testing.assert_allclose(
      actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
