"""The jellyfish networks and one published step against PyTorch.

The twin is written from the study's figures, layer by layer, with automatic
differentiation and torch.optim.Adamax; weights are copied into it and the
random numbers shared. It computes in float64: in float32 its own rounding
through ten layers of BatchNorm is 1.2e-5, ours 5e-6.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision_jax import players
from vision_jax import runs
from vision_jax import task as task_lib

torch = pytest.importorskip('torch')
F = torch.nn.functional

pytestmark = pytest.mark.parity

INFO = task_lib.Info(('a',), (64, 64, 3), steps_per_epoch=64)
BATCH = 16


def study_config(protocol='published'):
  """The config of the jellyfish study."""
  from vision_jax import config as config_lib
  import configs_test
  path = next(p for p in configs_test.FILES if p.stem == 'gan')
  config = configs_test.load(path).get_config(
      f'data=jellyfish,protocol={protocol}')
  return config_lib.replace(config, train__batch_size=BATCH)


def to_torch(tree):
  return jax.tree.map(
      lambda x: torch.tensor(np.asarray(x, np.float64)).requires_grad_(),
      tree)


def conv(x, p, step):
  """TensorFlow's 'same': an even size with step 2 pads below and right."""
  kernel = p['kernel'].permute(3, 2, 0, 1)
  x = F.pad(x, (0, 1, 0, 1) if step == 2 else (1, 1, 1, 1))
  return F.conv2d(x, kernel, p['bias'], stride=step)


def norm(x, p, stats, train):
  if train:
    return F.batch_norm(
        x, None, None, p['scale'], p['bias'], training=True, eps=1e-3)
  mean, var = (torch.tensor(np.asarray(stats[k], np.float64))
               for k in ('mean', 'var'))
  return F.batch_norm(x, mean, var, p['scale'], p['bias'], eps=1e-3)


def generator(p, stats, z, train):
  x = torch.relu(z @ p['Dense_0']['kernel'] + p['Dense_0']['bias'])
  x = x.reshape(-1, 4, 4, 256).permute(0, 3, 1, 2)
  for i in range(4):
    x = conv(F.interpolate(x, scale_factor=2), p[f'UpConv_{i}'], 1)
    name = f'ClassNorm_{i}'
    x = torch.relu(norm(
        x, p[name]['BatchNorm_0'], stats[name]['BatchNorm_0'], train))
  return torch.tanh(conv(x, p['Conv_0'], 1))


def discriminator(p, stats, x, train):
  for i, step in enumerate((2, 2, 2, 1, 1)):
    x = conv(x, p[f'Conv_{i}'], step) if x.shape[-1] % 2 == 0 or step == 1 else (
        F.conv2d(F.pad(x, (1, 1, 1, 1)), p[f'Conv_{i}']['kernel'].permute(
            3, 2, 0, 1), p[f'Conv_{i}']['bias'], stride=step))
    if i == 1:
      x = F.pad(x, (0, 1, 0, 1))
    if i:
      name = f'BatchNorm_{i - 1}'
      x = norm(x, p[name], stats[name], train)
    x = F.leaky_relu(x, 0.2)
  x = x.permute(0, 2, 3, 1).flatten(1)
  assert x.shape[1] == 41_472
  return (x @ p['Dense_0']['kernel'] + p['Dense_0']['bias'])[:, 0]


def images(count, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(size=(count, 64, 64, 3)).astype(np.float32)


@pytest.mark.parametrize('train', [False, True])
def test_networks_agree_in_both_modes(train):
  config = study_config('sound')
  config.model.dropout = 0.0
  made = players.make(config, INFO)
  variables = made.init(jax.random.key(3))
  z = np.random.default_rng(1).normal(size=(8, 100)).astype(np.float32)
  labels = jnp.zeros(8, jnp.int32)
  for name, twin, x in (('generator', generator, z),
                        ('discriminator', discriminator, images(8))):
    params, stats = variables['params'][name], variables['batch_stats'][name]
    ours, _ = made.play(
        name, params, stats, x, labels, key=jax.random.key(0), train=train)
    moved = torch.tensor(x).double()
    moved = moved if x.ndim == 2 else moved.permute(0, 3, 1, 2)
    theirs = twin(to_torch(params), stats, moved, train).detach()
    theirs = theirs if x.ndim == 4 else theirs.permute(0, 2, 3, 1)
    error = np.abs(np.asarray(ours) - theirs.numpy()).max()
    assert error <= 1e-5 * np.abs(theirs.numpy()).max(), (name, error)


def study_entropy(logits, targets):
  """Keras' cross-entropy of clipped probabilities."""
  p = torch.sigmoid(logits).clamp(1e-7, 1 - 1e-7)
  return -(targets * torch.log(p) + (1 - targets) * torch.log(1 - p)).mean()


def test_one_published_step(monkeypatch):
  config = study_config()
  task = runs.make_task(config, INFO)
  state = task.init(jax.random.key(5))
  real = images(BATCH)
  noise = np.random.default_rng(2).normal(
      size=(2, BATCH, 100)).astype(np.float32)
  lifts = np.random.default_rng(3).uniform(size=(2, BATCH)).astype(np.float32)
  # Shared random numbers: the step asks for latents twice, for labels once.
  latents = iter(noise)
  monkeypatch.setattr(
      jax.random, 'normal', lambda key, shape: jnp.asarray(next(latents)))
  monkeypatch.setattr(
      jax.random, 'uniform', lambda key, shape: jnp.asarray(lifts))
  after, sums = jax.jit(task.train_step)(state, {
      'image': jnp.asarray(real), 'label': jnp.zeros(BATCH, jnp.int32),
      'id': jnp.arange(BATCH), 'mask': jnp.ones(BATCH)}, jax.random.key(0))
  ours = sums.compute()

  weights = to_torch(state.params)
  stats = state.batch_stats
  leaves = {name: jax.tree.leaves(weights[name]) for name in weights}
  optimizers = {name: torch.optim.Adamax(
      leaves[name], lr=1.5e-4, betas=(0.5, 0.999), eps=1e-7)
                for name in weights}
  fake = generator(
      weights['generator'], stats['generator'],
      torch.tensor(noise[0]).double(), False).detach()
  seen = torch.cat([fake, torch.tensor(real).double().permute(0, 3, 1, 2)])
  targets = torch.tensor(np.concatenate(
      [1 + 0.05 * lifts[1], 0.05 * lifts[0]]))
  d_loss = study_entropy(discriminator(
      weights['discriminator'], stats['discriminator'], seen, False), targets)
  d_loss.backward()
  optimizers['discriminator'].step()
  optimizers['generator'].zero_grad()
  g_loss = study_entropy(discriminator(
      weights['discriminator'], stats['discriminator'], generator(
          weights['generator'], stats['generator'], torch.tensor(
              noise[1]).double(), False), False), torch.zeros(BATCH))
  g_loss.backward()
  optimizers['generator'].step()

  assert float(ours['discriminator_loss']) == pytest.approx(
      d_loss.item(), abs=1e-6)
  assert float(ours['generator_loss']) == pytest.approx(
      g_loss.item(), abs=5e-5)
  # Adamax's first step is nearly a sign, and one leaky ReLU of the
  # discriminator that rounding turns moves a sample's gradient by 1/200. With
  # seed 5 .041 of the generator's weights differ so (PyTorch's own float32:
  # .024), with seeds 6 to 8 twice less than .006 and once .012.
  for name, share in (('discriminator', 1e-3), ('generator', 6e-2)):
    new = np.concatenate([np.ravel(x) for x in jax.tree.leaves(
        after.params[name])])
    twin = np.concatenate([x.detach().numpy().ravel() for x in leaves[name]])
    assert (np.abs(new - twin) > 1e-6).mean() <= share, name
