"""Tests of the networks: counts, shapes, torch parity, contracts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision_jax.models import cnn
from vision_jax.models import heads
from vision_jax.models import layers
from vision_jax.models import unet


def _abstract(model, shape):
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  return jax.eval_shape(
      lambda key, x: model.init(key, x, train=False), jax.random.key(0), x)


def _count(model, shape, trainable=True):
  variables = _abstract(model, shape)
  return layers.count_parameters(
      variables['params'], variables.get('batch_stats', {}), trainable)


def _images(shape, seed=0):
  return jnp.asarray(
      np.random.default_rng(seed).uniform(size=shape), jnp.float32)


# The totals are sums by hand of kernel and bias sizes (the study's own count).
@pytest.mark.parametrize('model, total', [
    (unet.UNet(), 535_619),
    (unet.Encoder(), 370_816),
    (cnn.make_published_a(20), 67_195_284),
    (heads.Classifier(unet.Encoder(), heads.Head(20)), 33_936_020),
])
def test_published_parameter_counts(model, total):
  assert _count(model, (1, 128, 128, 3))['total'] == total


def test_frozen_encoder_count():
  model = heads.Classifier(unet.Encoder(), heads.Head(20))
  count = _count(
      model, (1, 128, 128, 3), {'encoder': False, 'head': True})
  assert count == {
      'total': 33_936_020, 'trainable': 33_565_204, 'frozen': 370_816,
      'modules': {'encoder': 370_816, 'head': 33_565_204},
      'trainable_modules': {'encoder': 0, 'head': 33_565_204}}


# Study 1, model 1 on VGG16's 7x7x512 features, less the base: 21,139,267 -
# 14,714,688 in all, 512 of them moving statistics.
def test_moving_statistics_are_frozen():
  head = heads.Head(3, ('flatten', 'dense:256', 'batch_norm', 'dropout:0.5'))
  count = _count(head, (1, 7, 7, 512))
  assert count['total'] == 21_139_267 - 14_714_688
  assert count['trainable'] == 6_424_067
  assert count['frozen'] == 512


# Study 4's head on 1,280 features: 3,102,218 - 2,257,984, 841,674 trainable.
def test_rare_species_head_count():
  head = heads.Head(202, (
      'average', 'batch_norm', 'dense:512', 'dropout:0.5', 'dense:256',
      'dropout:0.3'))
  count = _count(head, (1, 7, 7, 1280))
  assert (count['total'], count['trainable']) == (844_234, 841_674)


@pytest.mark.parametrize('variant', unet.VARIANTS)
@pytest.mark.parametrize('skip', unet.SKIPS)
def test_unet_keeps_the_shape(skip, variant):
  model = unet.UNet(
      features=(4, 8, 16), channels=1, skip=skip, variant=variant)
  variables = _abstract(model, (2, 16, 24, 1))
  x = jax.ShapeDtypeStruct((2, 16, 24, 1), jnp.float32)
  run = lambda method: jax.eval_shape(
      lambda v, x: model.apply(v, x, train=False, method=method), variables, x)
  assert run('__call__').shape == x.shape
  levels = run(lambda m, x, train: m.encoder.levels(x, train=train))
  assert [level.shape for level in levels] == [
      (2, 8, 12, 4), (2, 4, 6, 8), (2, 2, 3, 16)]


def test_skip_none_sees_the_latent_alone():
  model = unet.UNet(features=(4, 8), skip='none')
  x = _images((1, 8, 8, 3))
  variables = model.init(jax.random.key(0), x, train=False)
  decode = lambda levels: model.apply(variables, levels, method='decode')
  latent = jnp.ones((1, 2, 2, 8))
  np.testing.assert_array_equal(
      decode((jnp.zeros((1, 4, 4, 4)), latent)),
      decode((jnp.ones((1, 4, 4, 4)), latent)))


def test_unet_refuses_sizes_it_cannot_halve():
  with pytest.raises(ValueError, match='30x32.*multiples of 8'):
    _abstract(unet.UNet(), (1, 30, 32, 3))


@pytest.mark.parametrize('field', ['skip', 'head', 'variant'])
def test_unknown_choice_is_named(field):
  with pytest.raises(ValueError, match=f"{field} is 'addd'"):
    _abstract(unet.UNet(**{field: 'addd'}), (1, 16, 16, 3))


def test_encoder_parameters_move_into_a_classifier():
  x = _images((2, 16, 16, 3))
  encoder = unet.Encoder(features=(4, 8, 16))
  autoencoder = unet.UNet(features=(4, 8, 16))
  params = autoencoder.init(jax.random.key(0), x, train=False)['params']
  classifier = heads.Classifier(encoder, heads.Head(3, ('average',)))
  own = classifier.init(jax.random.key(1), x, train=False)['params']
  moved = {'params': {**own, 'encoder': params['encoder']}}
  features = classifier.apply(moved, x, train=False, method='encode')
  np.testing.assert_array_equal(features, autoencoder.apply(
      {'params': params}, x, train=False,
      method=lambda m, x, train: m.encoder(x, train=train)))


@pytest.mark.parametrize('head', ['sigmoid', 'tanh', 'linear'])
def test_head_stays_in_its_declared_range(head):
  model = unet.UNet(features=(4, 8), head=head)
  x = 100.0 * _images((2, 8, 8, 3)) - 50.0
  variables = model.init(jax.random.key(0), x, train=False)
  y = model.apply(variables, x, train=False)
  low, high = unet.HEAD_RANGE[head]
  assert low <= y.min() and y.max() <= high
  assert (y.max() > 1.0) == math.isinf(high)


@pytest.mark.parametrize('head, target', [
    ('sigmoid', (0.0, 1.0)), ('tanh', (-1.0, 1.0)), ('tanh', (0.0, 1.0)),
    ('linear', (-1.0, 1.0))])
def test_range_that_the_head_reaches(head, target):
  unet.check_range(head, target)


# The study's own mistake: a target in [-1, 1] behind a sigmoid.
def test_range_that_the_head_does_not_reach():
  with pytest.raises(ValueError, match=r"'sigmoid'.*\[-1.0, 1.0\]"):
    unet.check_range('sigmoid', (-1.0, 1.0))
  with pytest.raises(ValueError, match="'relu'.*sigmoid"):
    unet.check_range('relu', (0.0, 1.0))


@pytest.mark.parametrize('specs, bad', [
    (('flatten', 'dense'), 'dense'),
    (('flatten', 'dense:0'), 'dense:0'),
    (('flatten', 'dense:many'), 'dense:many'),
    (('flatten', 'dropout:1.0'), 'dropout:1.0'),
    (('flatten', 'dropout:nan'), 'dropout:nan'),
    (('flatten', 'batch_norm:1'), 'batch_norm:1'),
    (('flatten', 'batchnorm'), 'batchnorm'),
    (('dense:8',), 'dense:8'),
    (('flatten', 'dense:8', 'average'), 'average'),
])
def test_bad_head_spec_is_named(specs, bad):
  with pytest.raises(ValueError, match=f"'{bad}'"):
    heads.parse_specs(specs)


def test_head_without_specs():
  with pytest.raises(ValueError, match='first spec'):
    heads.parse_specs(())


@pytest.mark.parametrize('pooling, reduce', [
    ('average', np.mean), ('max', np.max)])
def test_head_pools_in_the_order_given(pooling, reduce):
  x = _images((3, 2, 5, 4))
  head = heads.Head(0, (pooling,))
  np.testing.assert_allclose(
      head.apply({}, x, train=False), reduce(np.asarray(x), (1, 2)), 1e-6)


def test_cached_features_give_the_full_call():
  model = heads.Classifier(
      unet.Encoder(features=(4, 8)),
      heads.Head(3, ('average', 'dropout:0.5', 'dense:8', 'batch_norm',
                     'dropout:0.3')))
  x = _images((4, 8, 8, 3))
  variables = model.init(jax.random.key(0), x, train=False)
  run = lambda *args, **kwargs: model.apply(
      variables, *args, rngs={'dropout': jax.random.key(1)},
      mutable=['batch_stats'], **kwargs)
  with layers.resting('^encoder/'):
    full, full_stats = run(x, train=True)
  features = model.apply(variables, x, train=False, method='encode')
  split, split_stats = run(features, train=True, method='classify')
  np.testing.assert_array_equal(full, split)
  jax.tree.map(np.testing.assert_array_equal, full_stats, split_stats)
  moving, _ = run(x, train=True)
  assert (moving != full).any()  # the encoder's dropout is on by default


def test_what_rests_neither_follows_the_batch_nor_moves_its_statistics():
  head = heads.Head(3, ('average', 'dense:8', 'batch_norm', 'dropout:0.3',
                        'dense:4', 'batch_norm'))
  x = _images((4, 2, 2, 5))
  variables = head.init(jax.random.key(0), x, train=False)
  def stats(pattern):
    with layers.resting(pattern):
      return head.apply(
          variables, x, train=True, mutable=['batch_stats'],
          rngs={'dropout': jax.random.key(1)})[1]['batch_stats']
  before = variables['batch_stats']
  moved = lambda after, name: bool(
      (after[name]['mean'] != before[name]['mean']).any())
  assert [moved(stats(''), f'BatchNorm_{i}') for i in (0, 1)] == [True, True]
  assert [moved(stats('BatchNorm_0'), f'BatchNorm_{i}')
          for i in (0, 1)] == [False, True]
  with layers.resting('.'):
    resting = head.apply(variables, x, train=True)
  np.testing.assert_array_equal(
      resting, head.apply(variables, x, train=False))


def test_bfloat16_computes_low_and_stores_high():
  model = unet.UNet(features=(4, 8), dtype=jnp.bfloat16)
  x = _images((1, 8, 8, 3))
  variables = model.init(jax.random.key(0), x, train=False)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
      jnp.dtype('float32')}
  y = model.apply(variables, x, train=False)
  exact = model.clone(dtype=jnp.float32).apply(variables, x, train=False)
  assert y.dtype == jnp.float32
  np.testing.assert_allclose(y, exact, atol=0.02)
  assert (y != exact).any()


def _torch_unet(torch):
  """The study's autoencoder, written from its description."""
  nn, functional = torch.nn, torch.nn.functional

  class Reference(nn.Module):

    def __init__(self):
      super().__init__()
      self.down = nn.ModuleList(
          nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 8), (8, 16), (16, 32)))
      self.up = nn.ModuleList(
          nn.ConvTranspose2d(i, o, 2, 2)
          for i, o in ((32, 16), (16, 8), (8, 3)))

    def forward(self, x):
      levels = []
      for conv in self.down:
        x = functional.max_pool2d(functional.relu(conv(x)), 2)
        levels.append(x)
      x = self.up[0](levels[2]) + levels[1]
      x = self.up[1](x) + levels[0]
      return torch.sigmoid(self.up[2](x))

  return Reference()


def test_unet_equals_torch_in_value_and_gradient():
  torch = pytest.importorskip('torch')
  torch.manual_seed(0)
  reference = _torch_unet(torch)
  x = _images((2, 32, 24, 3))
  flax_kernel = lambda w: w.detach().numpy().transpose(2, 3, 1, 0)
  # [in, out, h, w] to [h, w, in, out], both spatial axes reversed.
  flax_transposed = lambda w: (
      w.detach().numpy()[..., ::-1, ::-1].transpose(2, 3, 0, 1).copy())
  tree = lambda read: {
      'encoder': {f'level_{i}': {
          'kernel': flax_kernel(read(conv.weight)),
          'bias': read(conv.bias).detach().numpy()}
          for i, conv in enumerate(reference.down)},
      **{f'up_{i}': {
          'kernel': flax_transposed(read(conv.weight)),
          'bias': read(conv.bias).detach().numpy()}
         for i, conv in enumerate(reference.up)}}
  model = unet.UNet(features=(8, 16, 32))
  params = tree(lambda parameter: parameter)

  def loss(params):
    y = model.apply({'params': params}, x, train=False)
    return jnp.square(y - x).mean(), y

  (value, y), grads = jax.value_and_grad(loss, has_aux=True)(params)
  torch_x = torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())
  torch_y = reference(torch_x)
  torch_value = torch.square(torch_y - torch_x).mean()
  torch_value.backward()
  np.testing.assert_allclose(
      y, torch_y.detach().numpy().transpose(0, 2, 3, 1), atol=1e-6)
  np.testing.assert_allclose(value, torch_value.item(), rtol=1e-6)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7, rtol=1e-4),
      grads, tree(lambda parameter: parameter.grad))
