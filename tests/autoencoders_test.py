"""Autoencoders against PyTorch, their counts, and training with noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import denoising
import run_helpers
from vision_jax import config as config_lib
from vision_jax import published
from vision_jax import runs
from vision_jax import task as task_lib
from vision_jax.data import noise
from vision_jax.models import autoencoders
from vision_jax.models import layers

INFO = task_lib.Info(('a', 'b'), (8, 8, 3), 4)


def make_batch():
  rng = np.random.default_rng(0)
  return {'image': jnp.asarray(rng.uniform(size=(4, 8, 8, 3)), jnp.float32),
          'label': jnp.zeros(4, jnp.int32), 'id': jnp.arange(4),
          'mask': jnp.ones(4)}


def make_task(model='dense_autoencoder', **fields):
  return runs.make_task(run_helpers.make_config(**{
      'task': 'reconstruction', 'model__name': model,
      'model__input': 'unit', 'noise__kind': 'salt_pepper', **fields}), INFO)


@pytest.mark.parametrize('model, shape, total, modules', [
    ('dense', (28, 28, 1), 222_384, {'encoder': 110_816, 'decoder': 111_568}),
    ('conv', (128, 128, 3), 741_379, {'encoder': 370_816, 'decoder': 370_563})])
def test_parameters_are_the_study_s(model, shape, total, modules):
  config = denoising.get_config(f'data=butterflies,model={model}')
  assert (*config.data.image_size, config.data.channels) == shape
  task = runs.make_task(config, INFO._replace(input_shape=shape))
  state = jax.eval_shape(task.init, jax.random.key(0))
  counts = layers.count_parameters(state.params, {})
  assert (counts['total'], counts['modules']) == (total, modules)


def test_the_convolutional_one_equals_pytorch():
  torch = pytest.importorskip('torch')
  model = autoencoders.make_conv(3, (4, 6, 8))
  x = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
  params = model.init(jax.random.key(1), x, train=False)['params']
  nn, layer = torch.nn, []
  for module, kind, options in (
      ('encoder', nn.Conv2d, {}),
      ('decoder', nn.ConvTranspose2d, {'output_padding': 1})):
    for weights in params[module].values():
      kernel = np.array(weights['kernel'])
      inputs, outputs = kernel.shape[2:]
      found = kind(inputs, outputs, 3, stride=2, padding=1, **options)
      order = (3, 2, 0, 1)
      if module == 'decoder':
        kernel, order = kernel[::-1, ::-1].copy(), (2, 3, 0, 1)
      with torch.no_grad():
        found.weight.copy_(torch.tensor(kernel.transpose(order)))
        found.bias.copy_(torch.tensor(np.array(weights['bias'])))
      layer += [found, nn.ReLU()]
  expected = nn.Sequential(*layer[:-1], nn.Sigmoid())(
      torch.tensor(np.array(x).transpose(0, 3, 1, 2)))
  np.testing.assert_allclose(
      model.apply({'params': params}, x, train=False),
      expected.detach().numpy().transpose(0, 2, 3, 1), atol=1e-5)


def test_doubling_has_the_gradients_of_a_transposed_convolution():
  x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
  double = autoencoders.Doubling(6)
  other = layers.ConvTranspose(
      6, kernel_size=(3, 3), padding=((1, 2), (1, 2)))
  params = double.init(jax.random.key(1), x)['params']
  one, two = (jax.grad(lambda p, x, m=m: jnp.sin(
      m.apply({'params': p}, x)).sum(), argnums=(0, 1))(params, x)
              for m in (double, other))
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), one, two)


def test_a_side_that_cannot_be_halved_is_refused():
  with pytest.raises(ValueError, match='20x16 pixels.*multiples of 8'):
    autoencoders.ConvEncoder().init(
        jax.random.key(0), jnp.zeros((1, 20, 16, 3)), train=False)


def test_training_noise_is_fresh_and_evaluation_noise_is_not():
  task = make_task()
  state, batch = task.init(jax.random.key(0)), make_batch()
  step = jax.jit(task.train_step)
  loss = [float(step(state, batch, jax.random.key(i))[1].compute()['loss'])
          for i in (1, 2, 1)]
  assert loss[0] == loss[2] != loss[1]
  first = task.eval_step(state, batch)
  shuffled = {name: array[::-1] for name, array in batch.items()}
  np.testing.assert_allclose(
      task.eval_step(state, shuffled)['mse'][::-1], first['mse'], rtol=1e-6)
  # Another seed of the run is tested on the same noise.
  again = make_task(seed=7).eval_step(state, batch)
  np.testing.assert_array_equal(again['mse'], first['mse'])


def test_the_target_is_the_clean_image():
  task = make_task()
  state, batch = task.init(jax.random.key(0)), make_batch()
  corrupt = noise.make(config_lib.replace(
      config_lib.base(), noise__kind='salt_pepper').noise)
  noisy = noise.apply_fixed(corrupt, batch['image'], batch['id'])
  plain = make_task(noise__kind='none').eval_step
  on_noisy = plain(state, batch | {'image': noisy})
  found = task.eval_step(state, batch)
  # The same output, measured from the clean and from the noisy image.
  assert (np.asarray(found['mse']) != np.asarray(on_noisy['mse'])).all()
  model = autoencoders.make_dense((8, 8, 3), (4, 8))
  output = model.apply({'params': state.params}, noisy, train=False)
  np.testing.assert_allclose(
      found['mse'], jnp.square(output - batch['image']).mean((1, 2, 3)),
      rtol=1e-5)


def test_the_study_validated_on_clean_images():
  fields = dict(published__switches=('overlapping_noise', 'clean_evaluation'))
  task = make_task(**fields)
  state, batch = task.init(jax.random.key(0)), make_batch()
  np.testing.assert_array_equal(
      task.eval_step(state, batch)['mse'],
      make_task(noise__kind='none').eval_step(state, batch)['mse'])
  assert published.SWITCHES['overlapping_noise']


@pytest.mark.parametrize('name', ['dense_autoencoder', 'conv_autoencoder'])
def test_a_classifier_takes_the_denoiser_s_encoder(name):
  donor = make_task(name).init(jax.random.key(0)).params['encoder']
  task = runs.make_task(run_helpers.make_config(model__name=name), INFO)
  params = jax.eval_shape(task.init, jax.random.key(1)).params['encoder']
  assert (jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, donor))
