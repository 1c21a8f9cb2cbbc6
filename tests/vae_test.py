"""The ELBO against scipy and PyTorch, and what training does with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats as scipy_stats

import run_helpers
from vision_jax import config as config_lib
from vision_jax import likelihoods
from vision_jax import loop
from vision_jax import runs
from vision_jax import task as task_lib
from vision_jax.data import noise
from vision_jax.tasks import vae

INFO = task_lib.Info(('a', 'b'), (8, 8, 1), 5)


def make_config(**fields):
  return run_helpers.make_config(**{
      'task': 'vae', 'data__channels': 1, 'model__name': 'dense_vae',
      'model__features': (8, 6), 'model__input': 'unit',
      'vae__latent_dims': 3, **fields})


def make_batch(shape=(8, 8, 1), size=4):
  rng = np.random.default_rng(0)
  return {'image': jnp.asarray(rng.uniform(size=(size, *shape)), jnp.float32),
          'label': jnp.zeros(size, jnp.int32), 'id': jnp.arange(size) + 5,
          'mask': jnp.ones(size)}


def test_the_terms_equal_scipy():
  rng = np.random.default_rng(0)
  images, mean = rng.uniform(size=(2, 3, 4, 5, 2)).astype(np.float32)
  np.testing.assert_allclose(
      likelihoods.gaussian(mean, images, std=0.1),
      scipy_stats.norm(mean, 0.1).logpdf(images).sum((1, 2, 3)), rtol=1e-5)
  logits = rng.normal(size=images.shape).astype(np.float32)
  bits = images > 0.5
  np.testing.assert_allclose(
      likelihoods.bernoulli(logits, bits.astype(np.float32)),
      scipy_stats.bernoulli(1 / (1 + np.exp(-logits))).logpmf(bits).sum(
          (1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize('likelihood, network, beta', [
    ('bernoulli', 'dense_vae', 1.0), ('gaussian', 'conv_vae', 4.0)])
def test_the_elbo_of_an_image_equals_pytorch(likelihood, network, beta):
  torch = pytest.importorskip('torch')
  config = make_config(
      vae__likelihood=likelihood, model__name=network, vae__beta=beta,
      noise__kind='masking')
  task = runs.make_task(config, INFO)
  state, batch = task.init(jax.random.key(0)), make_batch()
  found = jax.jit(task.eval_step)(state, batch)
  noisy = noise.apply_fixed(
      noise.make(config.noise), batch['image'], batch['id'])
  draw = vae.normals(jax.random.key(1), batch['id'], 3)
  logits, mean, log_variance = (
      torch.tensor(np.asarray(x)) for x in vae.make_model(
          config, (8, 8, 1)).apply(
              {'params': state.params}, noisy, draw, train=False))
  images = torch.tensor(np.asarray(batch['image']))
  d = torch.distributions
  if likelihood == 'gaussian':
    each = d.Normal(torch.sigmoid(logits), 0.1).log_prob(images)
  else:
    each = -torch.nn.functional.binary_cross_entropy_with_logits(
        logits, images, reduction='none')
  kl = d.kl_divergence(
      d.Normal(mean, (log_variance / 2).exp()), d.Normal(0.0, 1.0))
  np.testing.assert_allclose(found['kl_by_dim'], kl, atol=1e-5)
  np.testing.assert_allclose(
      found['elbo'], each.sum((1, 2, 3)) - kl.sum(-1), rtol=1e-5)
  # The weight of the KL term is in the loss and not in the ELBO.
  np.testing.assert_allclose(
      found['loss'], beta * kl.sum(-1) - each.sum((1, 2, 3)), rtol=1e-5)


def test_free_bits_and_the_mask():
  kl = jnp.array([[0.1, 2.0], [0.3, 4.0], [9.0, 9.0]])
  found = vae.Terms(jnp.array([-5.0, -7.0, 100.0]), kl)
  mask = jnp.array([1.0, 1.0, 0.0])
  weighted = lambda **kw: float(vae.objective(
      found, mask, kw['weight'], kw['free_bits']))
  assert weighted(weight=1.0, free_bits=0.0) == pytest.approx(6 + 0.2 + 3)
  assert weighted(weight=1.0, free_bits=0.5) == pytest.approx(6 + 0.5 + 3)
  assert weighted(weight=0.0, free_bits=0.5) == pytest.approx(6)
  # Below the free bits a dimension is not pressed; above it is.
  grads = jax.grad(lambda kl: vae.objective(
      found._replace(kl=kl), mask, 2.0, 0.5))(kl)
  np.testing.assert_allclose(grads, [[0, 1], [0, 1], [0, 0]], atol=1e-6)


def test_the_kl_weight_grows_to_one():
  np.testing.assert_allclose(
      [vae.warmup(step, 4.0) for step in range(6)],
      [0.25, 0.5, 0.75, 1, 1, 1])
  assert vae.warmup(0, 0.0) == 1.0


def test_a_run_learns_draws_and_shows(tmp_path):
  config = make_config(
      report__figures=True, train__epochs=4, noise__kind='salt_pepper',
      optimizer__learning_rate=0.01)
  result = loop.train(config, tmp_path / 'run')
  rows = (tmp_path / 'run' / 'metrics.csv').read_text().splitlines()
  names = rows[0].split(',')
  loss = [float(row.split(',')[names.index('train_loss')])
          for row in rows[1:]]
  assert loss[-1] < loss[0]
  assert {'elbo', 'mse', 'psnr', 'ssim'} == set(result['intervals'])
  low, high = result['intervals']['elbo']
  assert low <= result['test']['elbo'] <= high
  for name in ('samples', 'interpolations', 'traversal', 'reconstructions'):
    path = tmp_path / 'run' / 'figures' / f'{name}.png'
    assert 0 < path.stat().st_size < 300_000


def test_the_generator_decodes_latents_in_the_unit_range():
  task = runs.make_task(make_config(), INFO)
  state = task.init(jax.random.key(0))
  latents = jax.random.normal(jax.random.key(1), (5, 3))
  images = task.generator.generate(state, latents, jnp.zeros(5, jnp.int32))
  assert images.shape == (5, 8, 8, 1)
  assert 0 < float(images.min()) and float(images.max()) < 1
  assert (task.generator.latent_dims, task.generator.classes) == (3, 0)


@pytest.mark.parametrize('fields, message', [
    (dict(vae__beta=-1.0), 'vae.beta'), (dict(vae__std=0.0), 'vae.std'),
    (dict(vae__likelihood='gauss'), "mean 'gaussian'"),
    (dict(model__name='dense'), "mean 'dense_vae'")])
def test_a_wrong_field_is_named(fields, message):
  with pytest.raises(config_lib.ConfigError, match=message):
    runs.make_task(make_config(**fields), INFO)
