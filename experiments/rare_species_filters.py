"""What each of study 4's filters does to accuracy, on the same test images.

    python -m experiments.rare_species_filters --root=../shared/data

The frozen backbone sees filtered images in training, validation and test; its
head is trained as in `sound`, without augmentation, so that each image passes
the backbone once a filter. Background removal needs masks: `--masks=<folder>`
of your own, or the package rembg (`--rembg`); without either it is left out.
`--make_masks=<folder>` writes masks by OpenCV's GrabCut around the middle of
each image, which needs no network and knows nothing of animals.
"""

import argparse
import pathlib
import shlex
import sys
import time

import numpy as np
from PIL import Image

from configs import rare_species as rare_species_config
from experiments import tables
from vision_jax import config as config_lib
from vision_jax import loop
from vision_jax import writers
from vision_jax.analysis import comparison
from vision_jax.analysis import figures
from vision_jax.data import filters
from vision_jax.data import pipeline

_SIDE = 64  # GrabCut's images; its time grows with their area.
_DRAWN = 4
_AUGMENT = ('flip_horizontal', 'rotation', 'zoom', 'translation', 'views')


def main(argv: list[str]) -> None:
  """Trains a head for each filter and writes the table."""
  args = _parser().parse_args(argv)
  began, out = time.perf_counter(), pathlib.Path(args.out)
  if args.make_masks:
    make_masks(args, pathlib.Path(args.make_masks))
    args.masks = args.make_masks
  names = ['none', 'greyscale', 'circle', 'peripheral_blur']
  names += ['masks'] * bool(args.masks) + ['rembg'] * args.rembg
  folders = {}
  for name in names:
    folders[name] = pathlib.Path(args.runs) / args.data / name
    print(folders[name], flush=True)
    loop.train(make_config(args, name), folders[name])
  rows = [row_of(name, folders) for name in names]
  writers.write_csv(out / 'table.csv', rows)
  draw(args, names, out / 'filters.png')
  writers.write_text(
      out / 'report.md', _text(argv, args, rows, time.perf_counter() - began))
  print((out / 'report.md').read_text())


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog='python -m experiments.rare_species_filters')
  parser.add_argument('--root', required=True, help='folder of the data sets')
  parser.add_argument('--data', default='caltech_families',
                      choices=('caltech_families', 'rare_species'))
  parser.add_argument('--model', default='efficientnet_lite0')
  parser.add_argument('--size', type=int, default=224, help='pixels a side')
  parser.add_argument('--masks', default='', help='a folder of masks')
  parser.add_argument('--make_masks', default='',
                      help='write masks by GrabCut into this folder first')
  parser.add_argument('--rembg', action='store_true',
                      help='remove backgrounds by the package rembg, too')
  parser.add_argument('--runs', default='runs/rare_species/filters')
  parser.add_argument('--out',
                      default='experiments/results/rare_species/filters')
  return parser


def make_config(args, name: str):
  """Returns the config of one filter: `sound`, unaugmented and cached."""
  config = rare_species_config.get_config(
      f'data={args.data},model={args.model},mode=frozen')
  off = config_lib.base().augment
  return config_lib.replace(
      config, data__root=args.root, data__filter=name,
      data__masks=args.masks if name == 'masks' else '',
      data__image_size=(args.size, args.size), report__progress=False,
      report__figures=False,
      **{f'augment__{field}': off[field] for field in _AUGMENT})


def row_of(name: str, folders) -> dict:
  """Returns a filter's numbers, and its difference from no filter."""
  result = tables.result_row(folders[name])
  row = {'filter': name, 'n': result['n_test']}
  for number in ('accuracy', 'macro_f1'):
    row[number] = result[number]
    row[f'{number} 95 %'] = (
        f'[{result[f"{number}_low"]:.3f}, {result[f"{number}_high"]:.3f}]')
  if name == 'none':
    return row
  found = comparison.compare(folders[name], folders['none'], fields=(
      'data.filter', 'data.masks'))
  return row | {
      'against none': found.accuracy.estimate,
      'against none 95 %':
          f'[{found.accuracy.low:+.3f}, {found.accuracy.high:+.3f}]',
      'McNemar p': found.test.p_value}


def make_masks(args, folder: pathlib.Path) -> None:
  """Writes a mask for every image, those that exist excepted.

  GrabCut starts from the rectangle that leaves a tenth of each side out.
  Source: Rother, Kolmogorov and Blake, 2004, "GrabCut".
  """
  try:
    import cv2  # Of no use but here.
  except ImportError as error:
    raise config_lib.ConfigError(
        '--make_masks needs OpenCV: pip install opencv-python-headless. '
        '--masks=<folder> takes masks that you already have.') from error
  data = config_lib.replace(
      make_config(args, 'none'), data__image_size=(_SIDE, _SIDE)).data
  dataset = pipeline.load(data)
  edge = _SIDE // 10
  box = (edge, edge, _SIDE - 2 * edge, _SIDE - 2 * edge)
  for name, pixels in zip(dataset.ids, dataset.images, strict=True):
    path = (folder / name).with_suffix('.png')
    if path.is_file():
      continue
    mask = np.zeros((_SIDE, _SIDE), np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(np.ascontiguousarray(pixels[..., ::-1]), mask, box, *models, 3,
                cv2.GC_INIT_WITH_RECT)
    kept = mask % 2  # Sure and probable foreground are odd.
    # An image without foreground would be black: it stays as it is.
    kept = kept if kept.any() else np.ones_like(kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(kept * np.uint8(255)).save(path)


def count_whole(folder: pathlib.Path) -> tuple[int, int]:
  """Returns how many of the masks in `folder` hide nothing, and of how many."""
  masks = [np.asarray(Image.open(path)) for path in folder.rglob('*.png')]
  return sum(bool((mask == 255).all()) for mask in masks), len(masks)


def draw(args, names: list[str], path: pathlib.Path) -> None:
  """Draws a few test images under every filter."""
  plain = pipeline.load(make_config(args, 'none').data)
  step = max(1, len(plain.splits['test']) // _DRAWN)
  rows = plain.splits['test'][::step][:_DRAWN]
  pictures = {}
  for name in names:
    change = filters.make(make_config(args, name).data)
    pictures[name.replace('_', ' ')] = np.stack([
        change(plain.ids[i], np.asarray(plain.images[i])) for i in rows]) / 255
  figures.reconstructions(pictures, path, inches=2.0)


def _text(argv, args, rows, seconds: float) -> str:
  source = ''
  if args.make_masks:
    whole, count = count_whole(pathlib.Path(args.make_masks))
    source = ("\nThe masks are GrabCut's from a rectangle, not those of a "
              'network: they also cut animals\naway, and in '
              f'{whole} of {count} images they found no foreground and hide '
              'nothing.\n')
  missing = sorted(set(filters.NAMES) - {row['filter'] for row in rows})
  if missing:
    source += f'\nNot measured here: {", ".join(missing)}.\n'
  return f"""# Filters on `{args.data}`, {args.model}

Command: `python -m experiments.rare_species_filters {shlex.join(argv)}`

Machine: {tables.machine()}. {seconds:.0f} s, what was cached before left out.
Every image of every split is filtered; the head of `sound` is trained anew
from features of the frozen backbone, without augmentation. `against none` is
the paired difference of accuracy on the same test images.

{tables.markdown(rows)}
{source}
![filters](filters.png)
"""


if __name__ == '__main__':
  main(sys.argv[1:])
