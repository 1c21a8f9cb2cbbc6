"""Whether data keeps up with the step, and how fast files are decoded.

A step fed as runs feed it, from resident and from streamed images, against
the same step on one batch that never leaves the device; and the decoding of
JPEG files against PyTorch's DataLoader with torchvision's usual transforms,
written with PIL. The files are made for it, photographs in size and detail.
Peak memory, with data that fits the device and more, is benchmark_memory.py's.
"""

import itertools
import os
import pathlib
import tempfile
import time
from typing import Any

import numpy as np
from PIL import Image

from experiments import benchmark_memory
from experiments import benchmark_workloads as workloads
from experiments import tables
from vision_jax import config as config_lib
from vision_jax import runs
from vision_jax.data import batches
from vision_jax.data import cache
from vision_jax.data import sources

_STEPS = {'dense_dae': 30, 'imbalance_cnn': 5}
_PHOTO = (500, 375)
_PHOTOS = 600


def run(args) -> dict[str, Any]:
  """Returns the times of `--what=input`."""
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    _write_photos(root / 'photos')
    steps = {name: _starvation(name, root, args.repeats) for name in _STEPS}
    return {'steps': steps, 'decoding': _decoding(root),
            'memory': benchmark_memory.measure(root / 'memory')}


def _write_photos(folder: pathlib.Path) -> None:
  """Writes JPEG files of ten classes: smooth colours and grain."""
  rng = np.random.default_rng(0)
  for i in range(_PHOTOS):
    coarse = Image.fromarray(
        rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize(_PHOTO, Image.Resampling.BICUBIC))
    grain = rng.normal(0, 8, pixels.shape)
    image = Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8))
    path = folder / f'class_{i % 10}' / f'{i}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=90)


def _config(name: str, root: pathlib.Path):
  config = workloads.make_config(name)
  return config_lib.replace(
      config, data__source='folders', data__root=str(root),
      data__path='photos', data__classes=(), data__imbalance__kind='none',
      data__cache_dir=str(root / 'cache'))


def _starvation(name: str, root: pathlib.Path, repeats: int):
  """Returns seconds a step: on the device, resident and streamed, in turns."""
  config = _config(name, root)
  feeds, ready = {}, {}
  for kind, megabytes in (('resident', 2048), ('streamed', 0)):
    made = runs.build(config_lib.replace(
        config, data__resident_megabytes=megabytes))
    feeds[kind] = _feed(made)
    ready[kind] = _stepper(made)
  # The batch that stays: the first of those that streaming would bring.
  still = next(feeds['streamed'])
  feeds['device'] = itertools.repeat(still)
  ready['device'] = ready['streamed']
  seconds = {kind: [] for kind in ('device', 'resident', 'streamed')}
  for turn in range(repeats + 1):
    for kind, times in seconds.items():
      began = time.perf_counter()
      ready[kind](feeds[kind], _STEPS[name])
      if turn:  # The first compiles.
        times.append((time.perf_counter() - began) / _STEPS[name])
  return {'batch': config.train.batch_size, 'seconds': seconds}


def _feed(run_: runs.Run):
  """Yields device (inputs, mask) for ever, as the loop does."""
  index = (batches.train_indices(
      run_.dataset.splits['train'], run_.config.train.batch_size, seed=0,
      step=step, remainder='drop') for step in itertools.count())
  return runs.stream(run_, run_.store, index)


def _stepper(run_: runs.Run):
  """Returns (feed, steps) -> None, which trains."""
  step = runs.make_train_step(run_, run_.store)
  state = runs.init_state(run_)
  carry = state, runs.start_sums(run_), runs.start_guard(run_, state)
  def take(feed, steps):
    nonlocal carry
    for inputs, mask in itertools.islice(feed, steps):
      carry = step(*carry, run_.store.arrays, inputs, mask, 0)
    carry[0].step.block_until_ready()
  return take


def _decoding(root: pathlib.Path) -> dict[str, float]:
  """Returns images a second: ours when first read and after, the peer's."""
  config = _config('imbalance_cnn', root)
  data = config_lib.replace(
      config, data__cache_dir=str(root / 'cold')).data
  source = sources.load(data)
  speeds = {}
  for name in ('first', 'cached'):
    began = time.perf_counter()
    images, _ = cache.decode(source, data)
    for start in range(0, len(images), 32):
      np.asarray(images[start:start + 32]).sum()
    speeds[name] = len(images) / (time.perf_counter() - began)
  files = sorted(map(str, (root / 'photos').rglob('*.jpg')))
  return speeds | {'torch_epoch': _torch_speed(files, data.image_size[0])}


def _torch_speed(files: list[str], side: int) -> float:
  """Returns the DataLoader's images a second, its start left out."""
  import torch.utils.data  # Only this comparison needs it.
  # A process that runs JAX has threads and must not fork.
  loader = torch.utils.data.DataLoader(
      _Files(files, side), batch_size=32, num_workers=os.cpu_count(),
      persistent_workers=True, multiprocessing_context='spawn')
  for _ in loader:  # Starts the workers.
    pass
  began = time.perf_counter()
  for _ in loader:
    pass
  return len(files) / (time.perf_counter() - began)


class _Files:
  """A data set for the DataLoader: float32 [3, side, side] in [0, 1]."""

  def __init__(self, files: list[str], side: int):
    self.files, self.side = files, side

  def __len__(self):
    return len(self.files)

  def __getitem__(self, index):
    image = Image.open(self.files[index]).convert('RGB').resize(
        (self.side, self.side), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1).astype(np.float32) / 255


def report(results: dict[str, Any], out: pathlib.Path) -> str:
  """Returns the Markdown report."""
  del out  # There is no figure.
  rows = []
  for name, found in results['steps'].items():
    medians = {kind: float(np.median(times))
               for kind, times in found['seconds'].items()}
    rows.append({
        'workload': name, 'batch': found['batch'],
        **{f'{kind}, ms': 1e3 * value for kind, value in medians.items()},
        **{f'{kind} / device': medians[kind] / medians['device']
           for kind in ('resident', 'streamed')}})
  speed = results['decoding']
  # Seconds an image of a training of two epochs.
  two = 1 / speed['first'] + 1 / speed['cached']
  return f"""# Whether data keeps up with the step

Command: `{results['command']}`

Machine: {results['machine']}; load average at the start
{results['load_average']:.1f}; {results['seconds']:.0f} s.

Medians of a step fed as a run feeds it, in turns with the same step on a batch
that stays on the device:

{tables.markdown(rows)}
Decoding {_PHOTOS} JPEG files of {_PHOTO[0]}x{_PHOTO[1]} pixels to 227x227,
images a second: ours when a file is first read {speed['first']:.0f}, with its
hashes and checks, and in every later epoch or run {speed['cached']:.0f}; PyTorch's DataLoader in every epoch
{speed['torch_epoch']:.0f}: {speed['first'] / speed['torch_epoch']:.2f} and \
{speed['cached'] / speed['torch_epoch']:.0f} times as fast, and
{2 / speed['torch_epoch'] / two:.2f} times over two epochs.

The most memory of a process that decodes, trains for an epoch and tests, where
{benchmark_memory.RESIDENT_MB} MB may lie on the device:

{tables.markdown(results['memory'])}"""
