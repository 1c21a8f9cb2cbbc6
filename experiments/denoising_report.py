"""What experiments/denoising.py measures on finished runs, and its figures."""

import csv
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
from scipy import ndimage

from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import image_metrics
from vision_jax import results
from vision_jax import runs
from vision_jax import stats
from vision_jax.analysis import figures
from vision_jax.data import noise as noise_lib
from vision_jax.data import pipeline
from vision_jax.tasks import reconstruction

_SHOWN = 8
_BATCH = 100


def config_of(folder: pathlib.Path):
  """Returns the config of a finished run, without the weights it began from."""
  return config_lib.replace(
      checkpoint.read_config(folder), model__weights='')


def restoration(folders) -> tuple[list[dict[str, Any]], dict[str, Any]]:
  """Compares denoisers with a median filter on the same noisy test images.

  Args:
    folders: run folders by (noise, model).

  Returns:
    A row per noise and method, and for each model the rows of a figure under
    salt-and-pepper.
  """
  rows, pictures, baselines = [], {}, {}
  for (noise, model), folder in folders.items():
    config = config_of(folder)
    size = f'{config.data.image_size[0]} px, {config.data.channels} channels'
    if (noise, size) not in baselines:
      images = test_images(config)
      methods = {'noisy input': images['noisy'],
                 'median filter': images['median']}
      found = {name: _errors(restored, images['original'])
               for name, restored in methods.items()}
      baselines[noise, size] = images, found
      rows += [_row(noise, size, name, errors, found['median filter'])
               for name, errors in found.items()]
    images, found = baselines[noise, size]
    rows.append(_row(
        noise, size, model, _run_errors(folder), found['median filter']))
    if noise == 'salt_pepper' and model != 'vae':
      shown = {name: array[::len(array) // _SHOWN][:_SHOWN]
               for name, array in images.items()}
      pictures[model] = shown | {
          'restored': _restored(folder, config, shown['noisy'])}
  order = {name: i for i, name in enumerate(
      ('noisy input', 'median filter', 'dense', 'vae', 'conv'))}
  rows.sort(key=lambda row: (
      row['noise'], row['images'], order[row['method']]))
  return rows, pictures


def test_images(config) -> dict[str, np.ndarray]:
  """Returns the test images, clean, noisy and filtered, [n, H, W, C]."""
  dataset = pipeline.load(config.data)
  ids = dataset.splits['test']
  images = dataset.images[ids].astype(np.float32) / 255
  noisy = np.asarray(noise_lib.apply_fixed(
      noise_lib.make(config.noise), images, ids))
  return {'original': images, 'noisy': noisy,
          'median': ndimage.median_filter(noisy, size=(1, 3, 3, 1))}


def _errors(restored: np.ndarray, images: np.ndarray) -> dict[str, np.ndarray]:
  ssim = jax.jit(image_metrics.ssim)
  return {
      'mse': np.square(restored - images).mean((1, 2, 3), dtype=np.float64),
      'ssim': np.concatenate([
          ssim(restored[i:i + _BATCH], images[i:i + _BATCH])
          for i in range(0, len(images), _BATCH)])}


def _run_errors(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns mse and ssim of each test image, in the order of the ids."""
  with (folder / 'predictions.csv').open(newline='', encoding='utf-8') as file:
    rows = sorted(csv.DictReader(file), key=lambda row: int(row['id']))
  return {name: np.array([float(row[name]) for row in rows])
          for name in ('mse', 'ssim')}


def _psnr(mse: np.ndarray) -> np.ndarray:
  return -10 * np.log10(mse)


def _row(noise, size, method, errors, median) -> dict[str, Any]:
  row = {'noise': noise, 'images': size, 'method': method,
         'n': len(errors['mse'])}
  values = {'PSNR': _psnr(errors['mse']), **errors}
  for name, each in values.items():
    mean = _mean(each)
    row |= {name: mean.estimate,
            f'{name} 95 %': f'[{mean.low:.4g}, {mean.high:.4g}]'}
  if errors is median:
    return row | {'gain': None, 'low': None, 'high': None}
  gain = _mean(_psnr(errors['mse']) - _psnr(median['mse']))
  return row | {'gain': gain.estimate, 'low': gain.low, 'high': gain.high}


def _mean(values: np.ndarray) -> stats.Interval:
  return stats.bootstrap(
      lambda v: float(v.mean()), (values,), strata=np.zeros(len(values), int))


def _restored(folder, config, noisy: np.ndarray) -> np.ndarray:
  model = reconstruction.make_model(config.model, noisy.shape[1:])
  weights = checkpoint.load_weights(folder)
  return np.asarray(model.apply(
      {'params': weights['params']}, noisy, train=False))


def correct(
    folder: pathlib.Path, kinds: tuple[str, ...]) -> dict[str, np.ndarray]:
  """Returns whether a classifier is right on each test image, int [n] a kind.

  Args:
    folder: A finished classification run.
    kinds: Of noise, with the default strengths; 'none' for clean images.
  """
  config = config_of(folder)
  run = runs.build(config)
  clean = run.task
  corruptions = {kind: noise_lib.make(
      config_lib.replace(config, noise__kind=kind).noise) for kind in kinds}
  def eval_step(state, batch):
    right = {}
    for kind, corrupt in corruptions.items():
      image = noise_lib.apply_fixed(corrupt, batch['image'], batch['id'])
      found = clean.eval_step(state, batch | {'image': image})
      right[kind] = found['probabilities'].argmax(-1) == found['label']
    return right
  run = run._replace(task=clean._replace(eval_step=eval_step))
  state = runs.replicate(run, runs.load_state(clean, config, folder))
  outputs = runs.evaluate(
      run, state, 'test', run.store, runs.make_eval_step(run, run.store))
  return {kind: outputs[kind].astype(int) for kind in kinds}


def draw(pictures: dict[str, Any], out: pathlib.Path) -> None:
  """Draws `<model>.png`: original, noisy, filtered and restored images."""
  for model, rows in pictures.items():
    figures.reconstructions(rows, out / f'{model}.png')


def elbos(folders, out: pathlib.Path) -> list[dict[str, Any]]:
  """Returns a row per noise of the VAEs; copies one's figures to `out`.

  Args:
    folders: run folders by (noise, model).
    out: where `vae_<figure>.png` go.
  """
  rows = []
  for noise in dict.fromkeys(noise for noise, _ in folders):
    folder = folders[noise, 'vae']
    result = results.read(folder)
    test, (low, high) = result['test'], result['intervals']['elbo']
    rows.append({
        'noise': noise, 'n': test['n'], 'ELBO': test['elbo'],
        '95 %': f'[{low:.1f}, {high:.1f}]',
        'log-likelihood': test['log_likelihood'], 'KL': test['kl'],
        'dimensions in use': test['active_dims']})
  for name in ('samples', 'interpolations', 'traversal'):
    shutil.copyfile(
        folders['salt_pepper', 'vae'] / 'figures' / f'{name}.png',
        out / f'vae_{name}.png')
  return rows
