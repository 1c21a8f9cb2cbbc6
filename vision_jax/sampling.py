"""Draws images from the weights of a finished run: grids, paths or files."""

import pathlib

import ml_collections

from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import results
from vision_jax import runs
from vision_jax import task as task_lib
from vision_jax.analysis import gan_reports
from vision_jax.analysis import pictures

LAYOUTS = ('grid', 'images', 'interpolation')
WEIGHTS = ('average', 'raw')


def load(
    config: ml_collections.ConfigDict, folder: str | pathlib.Path, *,
    weights: str = 'average',
) -> tuple[task_lib.Generator, task_lib.TrainState]:
  """Returns the generator of a finished run and the state it draws from.

  Args:
    config: The config of the run.
    folder: Its folder.
    weights: average, where the run kept one, or raw.

  Raises:
    ConfigError: If the run is not finished, draws nothing or kept no average.
  """
  config = config_lib.replace(config, model__weights='')
  names = results.read(folder)['class_names']
  shape = (*config.data.image_size, config.data.channels)
  task = runs.make_task(
      config, task_lib.Info(tuple(names), shape, steps_per_epoch=1))
  if task.generator is None:
    raise config_lib.ConfigError(
        f'config.task={config.task!r} draws no images; --mode=sample needs '
        'gan or vae.')
  state = runs.load_state(task, config, folder)
  if config_lib.choose(
      'weights', weights, dict(average=False, raw=True)) and (
          config.optimizer.ema_decay > 0):
    stored = checkpoint.load_weights(folder)
    if 'raw' not in stored:
      raise config_lib.ConfigError(
          f'{folder}/weights holds the average alone; train the run anew for '
          '--weights=raw.')
    state = state.replace(params=checkpoint.match(
        state.params, stored['raw'], source=f'{folder}/weights/raw'))
  return task.generator, state


def sample(
    config: ml_collections.ConfigDict,
    folder: str | pathlib.Path,
    *,
    output: str | None,
    count: int,
    seed: int,
    layout: str,
    weights: str) -> pathlib.Path:
  """Writes `count` images, one grid of them, or paths between latents.

  Args:
    config: The config of the run.
    folder: Its folder.
    output: File (grid, interpolation) or folder (images) to write; None = in
      the run folder.
    count: Number of images; an interpolation has its own.
    seed: Of the latents; the same seed draws the same images.
    layout: One of LAYOUTS.
    weights: One of WEIGHTS.

  Returns:
    The path written.

  Raises:
    ConfigError: If `output` is no PNG file where one is written, or for
      `load`'s reasons.
  """
  if (output and layout != 'images'
      and pathlib.Path(output).suffix.lower() != '.png'):
    raise config_lib.ConfigError(
        f'--output={output} does not end in .png: --layout={layout} writes one '
        'PNG file, and --layout=images a folder of them.')
  generator, state = load(config, folder, weights=weights)
  about = dict(seed=seed, weights=weights, step=results.read(folder)['steps'])
  stem = f'{layout}_{weights}_{seed}'
  if layout == 'images':
    target = pathlib.Path(output or pathlib.Path(folder) / stem)
    images = gan_reports.draw(generator, state, count=count, seed=seed)
    for i, image in enumerate(images):
      pictures.write_png(
          target / f'{i:06d}.png', pictures.to_bytes(image), index=i, **about)
    return target
  target = pathlib.Path(output or pathlib.Path(folder) / f'{stem}.png')
  if layout == 'grid':
    canvas = pictures.tile(
        gan_reports.draw(generator, state, count=count, seed=seed))
  else:
    canvas = pictures.tile(
        gan_reports.draw_paths(generator, state, seed=seed),
        columns=gan_reports.STEPS)
  pictures.write_png(target, canvas, **about)
  return target
