"""Screens study 4's images by one rule for all splits, and shows what it drops.

    python -m experiments.rare_species_screening --root=../shared/data

Writes `dropped.csv`, which `--config.data.screened=<path>` reads, a page with
its counts by split and pictures of what was dropped, and trains the head of
`sound` with and without the dropped images. "No animal" is EfficientNet-Lite0's
own ImageNet classifier, which gives the 398 animal classes too little; like
all rules it may be wrong, which is why the page shows pictures. `--cleanvision`
adds the issues that the package cleanvision finds in the files.
"""

import argparse
import pathlib
import shlex
import sys
from typing import Any

import jax
import numpy as np

from experiments import rare_species_filters
from experiments import tables
from vision_jax import config as config_lib
from vision_jax import features
from vision_jax import loop
from vision_jax import pretrained
from vision_jax import runs
from vision_jax import writers
from vision_jax.analysis import figures
from vision_jax.data import images
from vision_jax.data import listing
from vision_jax.data import screening
from vision_jax.models import backbones
from vision_jax.pretrained import locate

_MODEL = 'efficientnet_lite0'
_ANIMALS = 398  # The first classes of ImageNet's 1,000.
_SHOWN = 8
_CLEANVISION = ('dark', 'light', 'blurry', 'low_information',
                'exact_duplicates', 'near_duplicates', 'odd_aspect_ratio')


def main(argv: list[str]) -> None:
  """Screens, writes the page and measures what screening changes."""
  args = _parser().parse_args(argv)
  out = pathlib.Path(args.out)
  config = rare_species_filters.make_config(args, 'none')
  run = runs.build(config)
  rows, values = screen(run, args)
  writers.write_csv(out / 'dropped.csv', rows or [{'id': '', 'rule': ''}])
  draw(run, rows, out)
  folders = {name: pathlib.Path(args.runs) / args.data / name
             for name in ('all', 'screened')}
  loop.train(config, folders['all'])
  loop.train(config_lib.replace(
      config, data__screened=str(out / 'dropped.csv')), folders['screened'])
  writers.write_text(
      out / 'report.md', _text(argv, args, run, rows, values, folders))
  print((out / 'report.md').read_text())


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog='python -m experiments.rare_species_screening')
  parser.add_argument('--root', required=True, help='folder of the data sets')
  parser.add_argument('--data', default='caltech_families',
                      choices=('caltech_families', 'rare_species'))
  parser.add_argument('--size', type=int, default=224, help='pixels a side')
  parser.add_argument('--cleanvision', action='store_true',
                      help='ask the package cleanvision, too')
  parser.add_argument('--runs', default='runs/rare_species/screening')
  parser.add_argument('--out',
                      default='experiments/results/rare_species/screening')
  parser.set_defaults(model=_MODEL, masks='')
  return parser


def screen(run: runs.Run, args) -> tuple[list[dict[str, Any]], list[dict]]:
  """Returns what is dropped and why, and the measures of every image."""
  dataset = run.dataset
  pixels = [np.asarray(image) for image in dataset.images]
  values = [screening.measure(image) for image in pixels]
  for value, animal in zip(values, animal_share(run), strict=True):
    value['animal'] = float(animal)
  rows = screening.judge(dataset.ids, values)
  rows += screening.duplicates(
      dataset.ids, [images.dhash(image) for image in pixels])
  if args.cleanvision:
    rows += _ask_cleanvision(run)
  return sorted(rows, key=lambda row: (row['rule'], row['id'])), values


def animal_share(run: runs.Run) -> np.ndarray:
  """Returns the probability [n] of all animals, by the network's own head."""
  store = features.make_evaluation_store(
      run, runs.init_state(run), ('train', 'validation', 'test'))
  place = np.asarray(store.arrays['position'])
  pooled = np.asarray(store.arrays['features'])[place].reshape(len(place), -1)
  weights = backbones.build(_MODEL).weights['top']
  tensors = pretrained.read(locate.find(weights)).tensors
  logits = pooled @ tensors['_fc.weight'].T + tensors['_fc.bias']
  return np.asarray(jax.nn.softmax(logits)[:, :_ANIMALS].sum(-1))


def _ask_cleanvision(run: runs.Run) -> list[dict[str, Any]]:
  """Returns a row per image and issue that cleanvision finds in the files."""
  try:
    import cleanvision  # An extra of the project.
  except ImportError as error:
    raise config_lib.ConfigError(
        '--cleanvision needs the package cleanvision: pip install '
        '"vision_jax[screening]". Without the flag our own rules act.'
    ) from error
  base = listing.base_folder(run.config.data)
  lab = cleanvision.Imagelab(
      filepaths=[str(base / name) for name in run.dataset.ids])
  lab.find_issues({name: {} for name in _CLEANVISION}, verbose=False)
  found = []
  for path, issues in lab.issues.iterrows():
    for name in _CLEANVISION:
      if issues[f'is_{name}_issue']:
        found.append({
            'id': pathlib.Path(path).relative_to(base).as_posix(),
            'rule': f'cleanvision {name}'})
  return found


def draw(run: runs.Run, rows, out: pathlib.Path) -> None:
  """Draws a grid of dropped images, some of each rule."""
  dataset = run.dataset
  place = {name: i for i, name in enumerate(dataset.ids)}
  shown = []
  for rule in dict.fromkeys(row['rule'] for row in rows):
    shown += [row for row in rows if row['rule'] == rule][:_SHOWN]
  if shown:
    figures.image_grid(
        np.stack([dataset.images[place[row['id']]] for row in shown]) / 255,
        out / 'dropped.png', [row['rule'] for row in shown])


def _text(argv, args, run, rows, values, folders) -> str:
  dataset = run.dataset
  home = {dataset.ids[i]: name for name, members in dataset.splits.items()
          for i in members}
  splits = [name for name, members in dataset.splits.items() if len(members)]
  counts = [{'rule': rule, **{
      split: sum(row['rule'] == rule and home[row['id']] == split
                 for row in rows) for split in splits}}
            for rule in dict.fromkeys(row['rule'] for row in rows)]
  dropped = {row['id'] for row in rows}
  counts.append({'rule': 'any', **{
      split: sum(home[name] == split for name in dropped)
      for split in splits}})
  counts.append({'rule': '(all images)', **{
      split: len(dataset.splits[split]) for split in splits}})
  middle = [{'measure': name, **{f'{q} %': float(np.quantile(
      [value[name] for value in values], q / 100)) for q in (0, 1, 5, 50, 100)}}
            for name in values[0]]
  accuracy = [{'images': name, **tables.result_row(folder)}
              for name, folder in folders.items()]
  limits = [{'rule': name, 'measure': rule.measure,
             'dropped': f'{"below" if rule.below else "above"} {rule.limit:g}'}
            for name, rule in screening.RULES.items()]
  return f"""# What screening drops from `{args.data}`

Command: `python -m experiments.rare_species_screening {shlex.join(argv)}`

Machine: {tables.machine()}. {len(dropped)} of {len(dataset.ids)} images are
dropped ([dropped.csv](dropped.csv)). The split was drawn before, the rules see
neither split nor label, and the same rules act on all splits.

{tables.markdown(counts)}
## Rules, and how the images measure

{tables.markdown(limits)}
{tables.markdown(middle)}
![dropped](dropped.png)

## What it changes

The head of `sound`, unaugmented, trained and tested with all images and
without the dropped ones. The two test sets differ by what was dropped from the
test split, so that the numbers are no paired comparison.

{tables.markdown(accuracy)}"""


if __name__ == '__main__':
  main(sys.argv[1:])
