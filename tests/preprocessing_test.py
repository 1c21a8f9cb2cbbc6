"""Preprocessing: the published constants, and the range they are for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights_helpers

from vision_jax.models import backbones

# A pixel (R, G, B) of 255 x [0.2, 0.4, 0.6] as each reference prepares it.
PIXEL = (0.2, 0.4, 0.6)
CAFFE = (153 - 103.939, 102 - 116.779, 51 - 123.68)
EXPECTED = {
    'vgg16': CAFFE,
    'vgg19': CAFFE,
    'resnet50': CAFFE,
    'resnet101': CAFFE,
    'densenet121': (
        (0.2 - 0.485) / 0.229, (0.4 - 0.456) / 0.224, (0.6 - 0.406) / 0.225),
    'mobilenet_v2': (-0.6, -0.2, 0.2),
    'efficientnet_b0': (51, 102, 153),
    'efficientnet_lite0': (-76 / 128, -25 / 128, 26 / 128),
    'vit_s16': (-0.6, -0.2, 0.2),
    'convnext_tiny': (51, 102, 153),
}


@pytest.mark.parametrize('name', EXPECTED)
def test_pixel_is_prepared_as_published(name):
  image = jnp.broadcast_to(jnp.array(PIXEL), (1, 2, 2, 3))
  actual = backbones.build(name).preprocess(image)
  np.testing.assert_allclose(
      actual, np.broadcast_to(EXPECTED[name], (1, 2, 2, 3)), rtol=1e-5,
      atol=1e-5)


@pytest.mark.parametrize('name', backbones.NAMES)
@pytest.mark.parametrize('change', [
    lambda x: x * 255, lambda x: x * 2 - 1, lambda x: x - 0.5,
    lambda x: x.at[0, 0, 0, 0].set(jnp.nan),
    lambda x: (x * 255).astype(jnp.uint8), lambda x: x[..., :1],
    lambda x: x[0]])
def test_other_ranges_and_shapes_are_errors(name, change):
  images = jnp.asarray(weights_helpers.images(8))
  spec = backbones.build(name)
  assert spec.input_range == (0.0, 1.0)
  spec.preprocess(images)
  with pytest.raises(ValueError, match='images must'):
    spec.preprocess(change(images))


def test_preprocessing_is_the_same_under_jit():
  images = jnp.asarray(weights_helpers.images(8))
  for name in EXPECTED:
    preprocess = backbones.build(name).preprocess
    np.testing.assert_allclose(
        jax.jit(preprocess)(images), preprocess(images), rtol=1e-5, atol=1e-5)


def test_wrong_preprocessing_changes_the_output():
  images = jnp.asarray(weights_helpers.images(32))
  spec = backbones.build('mobilenet_v2')
  variables = weights_helpers.variables(jax.eval_shape(
      lambda: spec.module.init(jax.random.key(0), images, train=False)))
  apply = jax.jit(lambda x: spec.module.apply(variables, x, train=False))
  right = apply(spec.preprocess(images))
  wrong = apply(backbones.build('densenet121').preprocess(images))
  assert weights_helpers.relative(wrong, right) > 1e-2
