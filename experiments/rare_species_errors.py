"""The mistakes of a finished run of study 4: tables, figures and one page.

    python -m experiments.rare_species_errors \
        --run=runs/rare_species/caltech_families/efficientnet_lite0/sound

Reads the run's predictions and shows its images, which are looked for where
the run found them. Trains nothing.
"""

import argparse
import pathlib
import sys

import numpy as np

from experiments import tables
from vision_jax import checkpoint
from vision_jax import metrics
from vision_jax import writers
from vision_jax.analysis import error_figures
from vision_jax.analysis import errors
from vision_jax.analysis import figures
from vision_jax.data import pipeline
from vision_jax.data import taxonomy

_PAIRS = 5
_GALLERY = 16


def main(argv: list[str]) -> None:
  """Writes the page of one run."""
  parser = argparse.ArgumentParser(
      prog='python -m experiments.rare_species_errors')
  parser.add_argument('--run', required=True, help='folder of a finished run')
  parser.add_argument('--out', default='experiments/results/rare_species')
  args = parser.parse_args(argv)
  out = pathlib.Path(args.out)
  write(args.run, out / 'errors', command=command(args.run, out))


def command(folder, out) -> str:
  """Returns the command that writes the page of the run in `folder`."""
  return (f'python -m experiments.rare_species_errors --run={folder} '
          f'--out={out}')


def write(folder, out: pathlib.Path, *, command: str) -> None:
  """Writes tables, figures and `errors.md` of the run in `folder` to `out`."""
  predictions = errors.read(folder)
  dataset = pipeline.load(checkpoint.read_config(folder).data)
  counts = np.bincount(dataset.labels[dataset.splits['train']],
                       minlength=len(predictions.class_names))
  out.mkdir(parents=True, exist_ok=True)
  rows = {
      'distance': errors.distance_rows(predictions),
      'pairs': errors.confused_pairs(predictions, 10),
      'phylum': errors.by_parent(predictions),
      'class_size': errors.by_class_size(predictions, counts),
      'calibration': errors.calibration(predictions),
  }
  for name, table in rows.items():
    writers.write_csv(out / f'{name}.csv', table)
  _write_predictions(predictions, out / 'predictions.csv')
  _draw(predictions, dataset, counts, rows, out)
  writers.write_text(out / 'errors.md', page(
      predictions, rows, command, pathlib.Path(folder).name))


def _write_predictions(predictions, path) -> None:
  """Writes a row per test image, as the study's table has it."""
  names = predictions.class_names
  distance = errors.distances(
      names, predictions.labels, predictions.predicted)
  writers.write_csv(path, [
      {'filename': name, 'true': names[a], 'predicted': names[b],
       'probability': round(float(p.max()), 4), 'distance': int(d)}
      for name, a, b, p, d in zip(
          predictions.paths, predictions.labels, predictions.predicted,
          predictions.probabilities, distance, strict=True)])


def _draw(predictions, dataset, counts, rows, out) -> None:
  names = [taxonomy.leaf(name) for name in predictions.class_names]
  matrix = metrics.confusion(
      predictions.labels, predictions.predicted, len(names))
  figures.confusion_matrix(matrix, names, out / 'confusion_all.png')
  largest, shown = errors.largest(predictions, counts)
  right, hidden = matrix.trace(), largest.trace() - matrix.trace()
  figures.confusion_matrix(
      largest, [taxonomy.leaf(name) for name in shown],
      out / 'confusion_largest.png',
      title=f'{right} of {matrix.sum()} right; {hidden} of the '
            f'{largest[-1, -1]} in the last cell are not' if hidden else '')
  place = {name: row for row, name in enumerate(dataset.ids)}
  image = lambda i: dataset.images[place[predictions.paths[i]]] / 255
  wrong = errors.confident_mistakes(predictions, _GALLERY)
  if len(wrong):
    error_figures.gallery(
        np.stack([image(i) for i in wrong]),
        [names[i] for i in predictions.labels[wrong]],
        [names[i] for i in predictions.predicted[wrong]],
        predictions.probabilities[wrong].max(-1), out / 'gallery.png')
    error_figures.pairs(
        [_pair(predictions, dataset, image, row)
         for row in rows['pairs'][:_PAIRS]], out / 'pairs.png')
  error_figures.calibration(rows['calibration'], out / 'calibration.png')
  support = matrix.sum(1)
  recalls = np.where(
      support > 0, matrix.diagonal() / np.maximum(support, 1), np.nan)
  error_figures.class_size(
      counts, recalls, rows['class_size'], out / 'class_size.png')
  error_figures.rates(
      rows['phylum'], [row['parent'] for row in rows['phylum']],
      out / 'phylum.png', xlabel='accuracy')


def _pair(predictions, dataset, image, row):
  """Returns mistakes between two classes beside training images of both."""
  pair = [predictions.class_names.index(row[side]) for side in 'ab']
  wrong = np.flatnonzero(
      np.isin(predictions.labels, pair) & np.isin(predictions.predicted, pair)
      & (predictions.labels != predictions.predicted))[:2]
  images = [image(i) for i in wrong]
  leaf = lambda c: taxonomy.leaf(predictions.class_names[c])
  titles = [f'{leaf(predictions.labels[i])}\ntaken for '
            f'{leaf(predictions.predicted[i])}' for i in wrong]
  train = dataset.splits['train']
  for c in pair:
    for i in train[dataset.labels[train] == c][:2]:
      images.append(dataset.images[i] / 255)
      titles.append(f'training image\n{leaf(c)}')
  return images, titles


def page(predictions, rows, command: str, name: str) -> str:
  """Returns the Markdown page of counts `rows` and the figures beside it."""
  wrong = int((predictions.predicted != predictions.labels).sum())
  across = int(errors.across_parents(predictions).sum())
  return f"""# Mistakes of `{name}`

Command: `{command}`

{wrong} of {len(predictions.labels)} test images are taken for another family,
{across} of them for a family of another phylum. Every rate has its n and its
95 % Wilson interval.

## How far up the common ancestor lies

0 is right, 1 the same phylum, 2 the same kingdom.

{tables.markdown(rows['distance'])}
## The most confused pairs

{tables.markdown(rows['pairs'])}
![pairs](pairs.png)

## The most confident mistakes

![gallery](gallery.png)

## All families, and the largest

Smaller families are joined in the second matrix, so that mistakes among them
lie on its diagonal.

![all](confusion_all.png)
![largest](confusion_largest.png)

## Accuracy against class size

{tables.markdown(rows['class_size'])}
![class size](class_size.png)

## Accuracy by phylum

{tables.markdown(rows['phylum'])}
![phylum](phylum.png)

## Calibration

{tables.markdown(rows['calibration'])}
![calibration](calibration.png)
"""


if __name__ == '__main__':
  main(sys.argv[1:])
