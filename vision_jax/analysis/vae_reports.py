"""What a variational autoencoder's run shows: restored and imagined images."""

from typing import Any, Callable

import jax
import numpy as np

from vision_jax import stats
from vision_jax import task as task_lib
from vision_jax.analysis import figures
from vision_jax.analysis import pictures
from vision_jax.analysis import reports

_SAMPLES = 36
_STEPS = 9
_DIMS = 8
_REACH = 2.5


def report(
    outcome: task_lib.Outcome,
    *,
    generator: task_lib.Generator,
    encode: Callable[..., jax.Array],
    rows: Callable[..., Any],
    with_figures: bool,
    seed: int) -> dict[str, Any]:
  """Writes errors, reconstructions, samples, paths and a traversal.

  Args:
    outcome: Of a run of tasks/vae.py.
    generator: The task's.
    encode: (state, images) -> posterior means [n, d].
    rows: See `reports.reconstruction`.
    with_figures: Whether PNG files are drawn.
    seed: Of the samples.

  Returns:
    95 % intervals over the test images.
  """
  result = reports.reconstruction(outcome, rows=rows, with_figures=with_figures)
  elbo = outcome.outputs['test']['elbo']
  interval = stats.bootstrap(
      lambda values: float(values.mean(dtype=np.float64)), (elbo,),
      strata=np.zeros(len(elbo), int))
  result['intervals']['elbo'] = [interval.low, interval.high]
  if with_figures:
    def generate(latents):
      labels = np.zeros(len(latents), np.int32)
      return np.asarray(generator.generate(outcome.state, latents, labels))
    folder = outcome.folder / 'figures'
    latents = jax.random.normal(
        jax.random.key(seed), (_SAMPLES, generator.latent_dims))
    pictures.write_png(
        folder / 'samples.png', pictures.tile(generate(latents)), seed=seed)
    means = np.asarray(encode(outcome.state, outcome.batch['image']))
    pictures.write_png(
        folder / 'interpolations.png', interpolations(generate, means))
    strength = outcome.outputs['test']['kl_by_dim'].mean(0)
    figures.reconstructions(
        traversal(generate, strength), folder / 'traversal.png')
  return result


def interpolations(generate, means: np.ndarray) -> np.ndarray:
  """Draws spherical paths between pairs of images, uint8 [h, w, 3].

  Args:
    generate: latents [n, d] -> images in [0, 1].
    means: posterior means [n, d]; a path from the first to the second, from
      the third to the fourth, and so on.
  """
  paths = [pictures.interpolate(start, end, steps=_STEPS)
           for start, end in zip(means[::2], means[1::2])]
  return pictures.tile(generate(np.concatenate(paths)), columns=_STEPS)


def traversal(generate, strength: np.ndarray) -> dict[str, np.ndarray]:
  """Returns a row of images for each of the dimensions that say most.

  One coordinate goes from -2.5 to 2.5 while the others stay 0, the mean.

  Args:
    generate: latents [n, d] -> images in [0, 1].
    strength: mean KL of each dimension in nats, [d].
  """
  rows = {}
  for dim in np.argsort(-strength)[:_DIMS]:
    latents = np.zeros((_STEPS, len(strength)), np.float32)
    latents[:, dim] = np.linspace(-_REACH, _REACH, _STEPS)
    rows[f'z{dim}, {strength[dim]:.2f} nats'] = generate(latents)
  return rows
