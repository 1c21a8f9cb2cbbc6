"""Numbers, grids and figures of a run that draws images.

Every grid is written from the arrays just generated. Points (images of two
pixels) are drawn as points.
"""

import math
import pathlib
from typing import Any

import jax
import numpy as np

from vision_jax import runtime
from vision_jax import scores
from vision_jax import stats
from vision_jax import task as task_lib
from vision_jax import writers
from vision_jax.analysis import figures
from vision_jax.analysis import generative
from vision_jax.analysis import pictures

_POINT = (1, 2, 1)
_POINTS_DRAWN = 500
# Images of an interpolation: paths, and images a path.
PATHS, STEPS = 4, 9
_SAMPLES = 'samples'
# Bootstrap of a distance between whole sets, which costs a sort each.
_RESAMPLES = 200


def summarize(
    outputs: dict[str, np.ndarray], *, real_sign: int) -> dict[str, float]:
  """Returns the measures of a split.

  sliced_wasserstein: between the images averaged to 8x8 pixels, in units of
  the network's range. discriminator_auc: how well the discriminator tells
  real from generated images, .5 = not at all.
  """
  real, fake = outputs['real_logit'], outputs['fake_logit']
  truth = np.repeat([1, 0], [len(real), len(fake)])
  return {
      'sliced_wasserstein': generative.sliced_wasserstein(
          outputs['real'], outputs['fake']),
      'discriminator_auc': scores.auc(
          truth, real_sign * np.concatenate([real, fake])),
      'real_logit': float(real.mean(dtype=np.float64)),
      'fake_logit': float(fake.mean(dtype=np.float64)),
      'n': len(real),
  }


def table(outputs: dict[str, np.ndarray]) -> dict[str, Any]:
  """Returns the discriminator's logits of each example."""
  return {name: outputs[name].tolist()
          for name in ('real_logit', 'fake_logit')}


def draw(
    generator: task_lib.Generator, state: task_lib.TrainState, *,
    count: int, seed: int) -> np.ndarray:
  """Returns `count` images [n, H, W, C] in [0, 1]; classes take turns."""
  latents = _normals(seed, (count, generator.latent_dims))
  labels = np.arange(count, dtype=np.int32) % max(1, generator.classes)
  return np.asarray(generator.generate(state, latents, labels))


def _normals(seed: int, shape: tuple[int, ...]) -> jax.Array:
  return runtime.once(
      lambda key: jax.random.normal(key, shape), jax.random.key(seed))


def draw_paths(
    generator: task_lib.Generator, state: task_lib.TrainState, *,
    seed: int) -> np.ndarray:
  """Returns images along spherical paths between latents, a path a row."""
  ends = np.asarray(_normals(seed, (PATHS, 2, generator.latent_dims)))
  latents = np.concatenate([
      pictures.interpolate(*pair, steps=STEPS) for pair in ends])
  labels = np.repeat(np.arange(PATHS), STEPS) % max(1, generator.classes)
  return np.asarray(generator.generate(
      state, latents, labels.astype(np.int32)))


def preview(
    folder: pathlib.Path, state: task_lib.TrainState, epoch: int, *,
    generator: task_lib.Generator, config) -> None:
  """Writes the images of the run's fixed latents, every so many epochs."""
  if not _is_previewed(epoch, config):
    return
  images = draw(
      generator, state, count=config.gan.preview_count, seed=config.seed)
  if images.shape[1:] != _POINT:
    pictures.write_png(
        _preview_path(folder, epoch), pictures.tile(images),
        step=int(state.step), seed=config.seed)


def _is_previewed(epoch: int, config) -> bool:
  every = config.gan.preview_epochs
  return bool(every) and (epoch == 1 or epoch % every == 0)


def _preview_path(folder: pathlib.Path, epoch: int) -> pathlib.Path:
  return folder / _SAMPLES / f'epoch_{epoch:04d}.png'


def report(
    outcome: task_lib.Outcome, *, generator: task_lib.Generator,
    config) -> dict[str, Any]:
  """Writes the table of logits, the figures and the animation.

  Returns:
    The 95 % interval of the sliced Wasserstein distance.
  """
  outputs, seed = outcome.outputs['test'], config.seed
  writers.write_csv(outcome.folder / 'predictions.csv', [
      dict(zip(('id', 'real_logit', 'fake_logit'), row, strict=True))
      for row in zip(outputs['id'].tolist(), *table(outputs).values(),
                     strict=True)])
  if config.report.figures:
    folder = outcome.folder / 'figures'
    if outcome.batch['image'].shape[1:] == _POINT:
      _draw_points(outputs, folder / 'points.png')
    else:
      _draw_images(outcome, generator, folder, seed=seed)
      _animate(outcome, config)
  return {'intervals': {'sliced_wasserstein': _interval(outputs)}}


def _interval(outputs) -> list[float]:
  """The bootstrap's 95 % around the distance, over both sets at once."""
  found = stats.bootstrap(
      generative.mean_wasserstein,
      [generative.slices(outputs[name]) for name in ('real', 'fake')],
      resamples=_RESAMPLES, strata=np.zeros(len(outputs['real']), int))
  return [max(0.0, found.low), found.high]


def _draw_images(outcome, generator, folder: pathlib.Path, *, seed: int):
  """Samples, paths between them, and samples beside their nearest images."""
  about = dict(step=int(outcome.state.step), seed=seed)
  samples = draw(generator, outcome.state, count=36, seed=seed)
  pictures.write_png(folder / 'samples.png', pictures.tile(samples), **about)
  pictures.write_png(
      folder / 'interpolation.png',
      pictures.tile(draw_paths(generator, outcome.state, seed=seed),
                    columns=STEPS), **about)
  real = np.asarray(outcome.batch['image'])[:8]
  pictures.write_png(
      folder / 'real_and_generated.png', pictures.tile(
          np.concatenate([real, samples[:len(real)]]), columns=len(real)),
      **about)
  neighbours(samples[:8], outcome.train_images(), folder / 'nearest.png',
             **about)


def neighbours(
    samples: np.ndarray, train: np.ndarray, path: pathlib.Path,
    **about) -> None:
  """Writes samples above their nearest training images, by pixels.

  Args:
    samples: [n, H, W, C] in [0, 1].
    train: [m, H, W, C], uint8.
    path: The PNG file to write.
    **about: Text of the file, such as step and seed.
  """
  rows = train.reshape(len(train), -1).astype(np.float32) / 255
  distance, nearest = generative.nearest(
      samples.reshape(len(samples), -1), rows)
  shown = np.concatenate([samples, train[nearest] / np.float32(255)])
  pictures.write_png(
      path, pictures.tile(shown, columns=len(samples)),
      rmse=[round(d / math.sqrt(rows.shape[1]), 4) for d in distance], **about)


def _draw_points(outputs, path: pathlib.Path) -> None:
  axes = {'data': outputs['real'], 'generated': outputs['fake']}
  figures.scatter(
      {name: rows[:_POINTS_DRAWN] for name, rows in axes.items()}, path,
      xlabel='x', ylabel='y')


def _animate(outcome, config) -> None:
  """Joins the run's own previews; one of another run's is an error."""
  epochs = [e for e in range(1, config.train.epochs + 1)
            if _is_previewed(e, config)
            and _preview_path(outcome.folder, e).is_file()]
  frames = []
  for epoch in epochs:
    frame, about = pictures.read_png(_preview_path(outcome.folder, epoch))
    if about['seed'] != str(config.seed):
      raise ValueError(
          f'{_preview_path(outcome.folder, epoch)} is of seed '
          f'{about["seed"]}, this run of {config.seed}: remove it')
    frames.append(frame)
  if frames:
    pictures.write_gif(
        outcome.folder / 'figures' / 'training.gif', frames,
        seconds=min(10.0, 0.4 * len(frames)))
