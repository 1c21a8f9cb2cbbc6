"""The trainings of benchmark_endtoend.py as a PyTorch user writes them.

    python -m experiments.benchmark_endtoend_torch --like=<run folder> \
        --root=../shared/data --out=<folder> --workers=2

Reads the config and the split of a run of ours and does the same work: a
DataLoader that opens and resizes files with PIL, the step of
benchmark_torch.py, an evaluation and a checkpoint an epoch, the test at the
end. Never imports JAX.
"""

import argparse
import copy
import json
import pathlib
import sys
import time

import numpy as np
from PIL import Image
import torch
from torch import nn
from torch.nn import functional
from torch.utils import data

from experiments import benchmark_torch
from vision_jax import config_io

_PREVIEWED = 36


class Images(data.Dataset):
  """Files and labels as (float32 [3, h, w] in [0, 1], label)."""

  def __init__(self, rows, size):
    self.rows, self.size = rows, size

  def __len__(self):
    return len(self.rows)

  def __getitem__(self, index):
    path, label = self.rows[index]
    image = Image.open(path).convert('RGB').resize(
        self.size[::-1], Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    return pixels.permute(2, 0, 1).float() / 255, label


def read_splits(like: pathlib.Path, root: str, config):
  """Returns {split: [(path, label)]} of a run folder, and the classes."""
  manifest = json.loads((like / 'manifest.json').read_text())
  names = manifest['class_names']
  folder = pathlib.Path(root) / config.data.path
  splits = {'train': [], 'validation': [], 'test': []}
  for row in manifest['files']:
    if row['split'] in splits:
      splits[row['split']].append(
          (str(folder / row['id']), names.index(row['label'])))
  return splits, names


def draw_weights(config, network) -> None:
  """Draws the kernels from the distributions that ours begin with.

  PyTorch's own are narrower, and its biases are not zero: from those, five
  epochs of the imbalance CNN end .1 higher, and the job would be another.
  """
  def lecun_normal(w):
    # Cut at two deviations, .88 of the deviation are left.
    deviation = w[0].numel() ** -0.5 / 0.87962566
    nn.init.trunc_normal_(
        w, std=deviation, a=-2 * deviation, b=2 * deviation)
  draw = {'imbalance_cnn': lambda w: nn.init.normal_(w, std=0.01),
          'study_gan': nn.init.xavier_uniform_,
          'unet': lecun_normal}[config.model.name]
  for module in network.modules():
    if isinstance(module, (nn.Conv2d, nn.Linear)):
      draw(module.weight)
      nn.init.zeros_(module.bias)


class Classifier:
  """Trains and tests a classifier whose encoder may be frozen."""

  def __init__(self, config, classes: int, network):
    self.config, self.classes, self.network = config, classes, network

  def train(self):
    """Turns training mode on, but not in what is frozen."""
    self.network.train()
    if self.config.model.frozen:
      self.network.encoder.eval().requires_grad_(False)

  def evaluate(self, loader) -> dict[str, float]:
    """Returns loss, accuracy and balanced accuracy over a split."""
    self.network.eval()
    total, matrix = 0.0, torch.zeros(self.classes, self.classes)
    with torch.inference_mode():
      for images, labels in loader:
        logits = self.network(benchmark_torch.prepare(
            self.config, images.contiguous(
                memory_format=torch.channels_last)))
        total += functional.cross_entropy(
            logits, labels, reduction='sum').item()
        matrix.index_put_((labels, logits.argmax(1)),
                          torch.ones(len(labels)), accumulate=True)
    recall = matrix.diag() / matrix.sum(1)
    return {'loss': total / matrix.sum().item(),
            'accuracy': (matrix.trace() / matrix.sum()).item(),
            'balanced_accuracy': recall[matrix.sum(1) > 0].mean().item()}

  def preview(self, folder: pathlib.Path, epoch: int) -> None:
    """There is nothing to look at."""


class Gan:
  """Trains and tests two players."""

  def __init__(self, config, classes: int, network):
    del classes
    self.config, self.network = config, network

  def train(self):
    """Turns training mode on."""
    self.network.train()

  def _draw(self, count: int) -> torch.Tensor:
    return self.network.generator(
        torch.randn(count, self.config.gan.latent_dims))

  def evaluate(self, loader) -> dict[str, float]:
    """Returns the distance of generated to real images, and mean logits."""
    self.network.eval()
    rows = {'real': [], 'fake': []}
    logits = {'real': [], 'fake': []}
    with torch.inference_mode():
      for images, _ in loader:
        for side, x in (('real', 2 * images - 1),
                        ('fake', self._draw(len(images)))):
          x = x.contiguous(memory_format=torch.channels_last)
          logits[side].append(self.network.discriminator(x))
          rows[side].append(
              functional.adaptive_avg_pool2d(x, 8).flatten(1).numpy())
    real, fake = (np.concatenate(rows[side]) for side in ('real', 'fake'))
    directions = np.random.default_rng(0).normal(size=(real.shape[1], 128))
    directions /= np.linalg.norm(directions, axis=0)
    gaps = np.sort(real @ directions, 0) - np.sort(fake @ directions, 0)
    return {'sliced_wasserstein': float(np.abs(gaps).mean()), **{
        f'{side}_logit': torch.cat(values).mean().item()
        for side, values in logits.items()}}

  def preview(self, folder: pathlib.Path, epoch: int) -> None:
    """Writes a grid of samples, as often as the config asks for."""
    every = self.config.gan.preview_epochs
    if not every or (epoch > 1 and epoch % every):
      return
    self.network.eval()
    with torch.inference_mode():
      images = (self._draw(_PREVIEWED) + 1) / 2
    side = int(_PREVIEWED ** 0.5)
    _, channels, height, width = images.shape
    grid = images.reshape(side, side, channels, height, width).permute(
        0, 3, 1, 4, 2).reshape(side * height, side * width, channels)
    Image.fromarray((grid.numpy() * 255).astype(np.uint8)).save(
        folder / f'epoch_{epoch}.png')


def train(config, splits, classes: int, folder: pathlib.Path, workers: int,
          spawned: float):
  """Trains, tests the best weights and returns what belongs into the result."""
  torch.manual_seed(config.seed)
  loaders = make_loaders(config, splits, workers)
  size = config.train.batch_size
  blank = {'image': np.zeros((size, *config.data.image_size, 3), np.float32),
           'label': np.zeros(size, np.int32)}
  peer = benchmark_torch.Peer(config, blank, classes=classes)
  draw_weights(config, peer.network)
  side = (Gan if config.task == 'gan' else Classifier)(
      config, classes, peer.network)
  keeps = config.callbacks.restore_best
  step, epoch, first, best, best_loss = 0, 0, None, None, np.inf
  total = config.train.max_steps or config.train.epochs * len(
      loaders['train'])
  while step < total:
    side.train()
    for images, labels in loaders['train']:
      peer.inputs = images.contiguous(memory_format=torch.channels_last)
      peer.labels = labels
      peer.step()
      first = first or time.time() - spawned
      step += 1
      if step == total:
        break
    epoch += 1
    row = side.evaluate(loaders['validation']) if splits['validation'] else {}
    if keeps and row['loss'] < best_loss:
      best_loss, best = row['loss'], copy.deepcopy(side.network.state_dict())
    side.preview(folder, epoch)
    torch.save({
        'network': side.network.state_dict(), 'best': best, 'step': step,
        'optimizers': [x.state_dict() for x in peer.optimizers]},
               folder / 'checkpoint.pt')
  if best:
    side.network.load_state_dict(best)
  torch.save(side.network.state_dict(), folder / 'weights.pt')
  return {'first_step_seconds': first, 'work': {'steps': step, 'images': {
      name: len(rows) for name, rows in splits.items()}},
          'test': side.evaluate(loaders['test'])}


def make_loaders(config, splits, workers: int):
  """Returns a DataLoader for each split."""
  options = dict(num_workers=workers, persistent_workers=workers > 0)
  size = tuple(config.data.image_size)
  loaders = {'train': data.DataLoader(
      Images(splits['train'], size), config.train.batch_size, shuffle=True,
      drop_last=config.train.remainder == 'drop', **options)}
  return loaders | {name: data.DataLoader(
      Images(splits[name], size), config.train.eval_batch_size, **options)
                    for name in ('validation', 'test')}


def main(argv: list[str]) -> None:
  """Does the job of a run folder and writes result.json."""
  parser = argparse.ArgumentParser()
  for name in ('like', 'root', 'out'):
    parser.add_argument(f'--{name}', required=True)
  parser.add_argument('--workers', type=int, default=0)
  parser.add_argument('--spawned', type=float, default=time.time(),
                      help='when this process was started, in Unix seconds')
  args = parser.parse_args(argv)
  like, folder = pathlib.Path(args.like), pathlib.Path(args.out)
  folder.mkdir(parents=True, exist_ok=True)
  config = config_io.from_dict(json.loads((like / 'config.json').read_text()))
  splits, names = read_splits(like, args.root, config)
  result = train(config, splits, len(names), folder, args.workers, args.spawned)
  (folder / 'result.json').write_text(json.dumps(result))


if __name__ == '__main__':
  main(sys.argv[1:])
