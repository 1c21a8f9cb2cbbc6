"""Gradient checkpointing: the same numbers, and less that is kept."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision_jax import classifiers
from vision_jax import config as config_lib
from vision_jax.models import efficientnet
from vision_jax.models import layers
from vision_jax.models import spec


class Tiny(spec.Backbone):
  """Three of EfficientNet's blocks, which draw the examples that skip them."""

  @nn.compact
  def forward(self, x, *, train, head):
    conv = functools.partial(layers.Conv, use_bias=False)
    norm = functools.partial(nn.BatchNorm, use_running_average=not train)
    for i in range(3):
      x = self.run_block(efficientnet.MBConv(
          3, 3, 1, 8, 2, drop=0.5, conv=conv, norm=norm, activation=nn.swish,
          name=f'block{i}'), x, train=train)
    return {}, x.mean((1, 2))


def make_gradient(side, remat):
  """Returns a jitted function of a network in training, and its argument."""
  module = Tiny(remat=remat)
  x = jax.random.uniform(jax.random.key(0), (4, side, side, 3))
  variables = module.init(jax.random.key(1), x, train=False)
  def loss(params):
    y, new = module.apply(
        variables | {'params': params}, x, train=True,
        mutable=['batch_stats'], rngs={'dropout': jax.random.key(2)})
    return jnp.square(y - 1).mean(), new
  return jax.jit(
      jax.value_and_grad(loss, has_aux=True)), variables['params']


def test_same_loss_gradients_and_statistics():
  (plain, params), (again, same) = (
      make_gradient(8, remat) for remat in (False, True))
  jax.tree.map(np.testing.assert_array_equal, params, same)
  ours, theirs = again(params), plain(params)
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
    assert np.max(np.abs(a - b)) <= 1e-5 * np.max(np.abs(b))


def test_compiled_step_takes_less_memory():
  plain, again = (
      function.lower(params).compile().memory_analysis().temp_size_in_bytes
      for function, params in (
          make_gradient(64, remat) for remat in (False, True)))
  assert again < 0.7 * plain


def test_config_field_reaches_backbones_alone():
  change = lambda name: config_lib.replace(
      config_lib.base(), model__name=name, model__remat=True).model
  module = classifiers.make(change('resnet50'), 3).module
  assert module.encoder.backbone.remat
  with pytest.raises(config_lib.ConfigError, match="'unet' is none"):
    classifiers.make(change('unet'), 3)
