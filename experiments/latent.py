"""What the latent spaces of several encoders are worth, in one table.

    python -m experiments.latent --root=../shared/data --encoders="\
        pixels=pixels;\
        autoencoder=configs/transfer.py:data=butterflies,model=b1;\
        lite0=configs/backbone.py:data=butterflies"

An encoder is `<name>=<source>`: `pixels`, a run folder, or a config file (see
`vision_jax/encoders.py`). Features of train, validation and test images are
projected on the principal components of the training images. K-means centres,
the linear probe and the neighbours come from the training images; every score
is taken on the test images. The maps show all images. Writes `table.csv`,
`sweep.csv`, `report.md`, the figures and `points.csv`: of each image its
cluster and its place on the first map, the species as its number in the order
of the class names.
"""

import argparse
import math
import pathlib
import shlex
import sys
import time
from typing import Any

import numpy as np

from experiments import origins
from experiments import tables
from vision_jax import config as config_lib
from vision_jax import datasets
from vision_jax import encoders
from vision_jax import writers
from vision_jax.analysis import latent
from vision_jax.analysis import latent_figures

_TITLES = {'tsne': 't-SNE', 'opentsne': 't-SNE', 'umap': 'UMAP'}


def main(argv: list[str]) -> None:
  """Measures and draws every encoder, and writes the report."""
  args = _parser().parse_args(argv)
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  config = config_lib.base()
  datasets.use(config, args.data)
  config.data.root = args.root
  config.data.image_size = (args.pixels, args.pixels)
  began, rows, curves, columns, first = time.perf_counter(), [], {}, {}, None
  sources = dict(part.strip().partition('=')[::2]
                 for part in args.encoders.split(';'))
  for name, source in sources.items():
    print(name, flush=True)
    encoded = encoders.encode(source, config.data)
    first = first or encoded._replace(features=np.zeros(0))
    check_same(first, encoded, name)
    row, curves[name], found = analyse(name, encoded, args, out)
    rows.append(row)
    columns |= {f'{name}_{key}': values for key, values in found.items()}
  seconds = time.perf_counter() - began
  latent_figures.sweep(
      curves, out / 'sweep.png', marked=len(first.class_names))
  writers.write_csv(out / 'table.csv', rows)
  writers.write_csv(out / 'sweep.csv', [
      {'encoder': name, **row} for name, part in curves.items()
      for row in part])
  writers.write_csv(out / 'points.csv', _points(first, columns))
  folders = {name: source for name, source in sources.items()
             if pathlib.Path(source).is_dir()}
  writers.write_text(
      out / 'report.md',
      report(argv, args, rows, seconds) + origins.describe(folders))
  print((out / 'report.md').read_text())


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m experiments.latent')
  parser.add_argument('--root', required=True, help='folder of the data sets')
  parser.add_argument('--data', default='butterflies')
  parser.add_argument('--encoders', required=True,
                      help='name=source;name=source;...')
  parser.add_argument('--pixels', type=int, default=64,
                      help='side of the images of the encoder pixels')
  parser.add_argument('--components', type=int, default=128,
                      help='principal components kept')
  parser.add_argument('--clusters', default='5,10,15,20,25,30,40',
                      help='numbers of clusters to sweep')
  parser.add_argument('--maps', default='tsne,umap',
                      help='of tsne, opentsne and umap')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--out', default='experiments/results/latent')
  return parser


def analyse(name: str, encoded: encoders.Encoded, args, out: pathlib.Path):
  """Measures one encoder and draws its maps.

  Returns:
    Its row of the table, its curve over k, and the columns [n] of its points.
  """
  labels, splits = encoded.labels, encoded.splits
  train, test = splits['train'], splits['test']
  classes = len(encoded.class_names)
  reduced = latent.reduce(
      encoded.features, train, components=args.components, seed=args.seed)
  features = reduced.features
  clusters = latent.cluster(features, train, k=classes, seed=args.seed)
  row = {
      'encoder': name, 'features': encoded.features.shape[1],
      'components': features.shape[1], 'explained': reduced.explained,
      **latent.probe(features, labels, splits),
      **latent.cluster_scores(features, labels, clusters, rows=test)}
  columns = {'cluster': clusters}
  for method in args.maps.split(','):
    plane = latent.embed(method, features, seed=args.seed)
    row[f'{method}_trustworthiness'] = latent.faithfulness(features, plane)
    if len(columns) == 1:  # Other maps would double the file.
      columns |= {f'{method}_x': _coarse(plane[:, 0]),
                  f'{method}_y': _coarse(plane[:, 1])}
    title = f'{_TITLES[method]} of {name}, n = {len(labels)}'
    latent_figures.scatter(
        plane, labels, encoded.class_names,
        out / f'{name}_{method}_species.png', title=f'{title}: species')
    latent_figures.scatter(
        plane, clusters, [f'cluster {i + 1}' for i in range(classes)],
        out / f'{name}_{method}_clusters.png',
        title=f'{title}: K-means, k = {classes}')
  curve = latent.sweep(
      features, labels, fit_rows=train, rows=test, seed=args.seed,
      counts=[int(k) for k in args.clusters.split(',')])
  return row, curve, columns


def check_same(
    first: encoders.Encoded, other: encoders.Encoded, name: str) -> None:
  """Refuses to compare encoders of other images, or of another split.

  Raises:
    ConfigError: If `other`, called `name`, differs from `first` in either.
  """
  if first.ids != other.ids or any(
      not np.array_equal(rows, other.splits[split])
      for split, rows in first.splits.items()):
    raise config_lib.ConfigError(
        f'{name} has other images, or another split, than the encoders '
        'before: give its config the same data.')


def _points(encoded: encoders.Encoded, columns) -> list[dict[str, Any]]:
  """Returns a row for each image; `columns` holds those of each encoder."""
  split_of = {row: split for split, rows in encoded.splits.items()
              for row in rows}
  rows = [{'id': image, 'split': split_of[i],
           'species': int(encoded.labels[i]) + 1}
          for i, image in enumerate(encoded.ids)]
  for name, values in columns.items():
    for row, value in zip(rows, values, strict=True):
      row[name] = f'{value:g}' if value.dtype.kind == 'f' else int(value) + 1
  return rows


def _coarse(places: np.ndarray) -> np.ndarray:
  """Rounds coordinates [n] to about a hundredth of their spread."""
  places = np.asarray(places, np.float64)
  spread = np.ptp(places) or 1.0
  # Adding 0 turns -0 into 0.
  return places.round(max(0, round(2 - math.log10(spread)))) + 0.0


def report(argv, args, rows: list[dict[str, Any]], seconds: float) -> str:
  """Returns the Markdown report; every number comes from the rows."""
  def interval(row, name):
    return (f'{row[name]:.3f} [{row[f"{name}_low"]:.3f}, '
            f'{row[f"{name}_high"]:.3f}]')
  shown = [{
      'encoder': row['encoder'], 'features': row['features'],
      'variance kept': row['explained'],
      **{title: interval(row, name) for title, name in (
          ('linear probe', 'linear'), ('10 neighbours', 'knn'),
          ('NMI', 'nmi'), ('AMI', 'ami'), ('ARI', 'ari'),
          ('purity', 'purity'))},
      'silhouette of species': row['label_silhouette'],
      'of clusters': row['silhouette'],
      **{f'trust, {_TITLES[m]}': row[f'{m}_trustworthiness']
         for m in args.maps.split(',')},
  } for row in rows]
  best = max(rows, key=lambda row: row['linear'])
  return f"""# Latent spaces of `{args.data}`

Command: `python -m experiments.latent {shlex.join(argv)}`

Machine: {tables.machine()}; {seconds:.0f} s in all.

Scores over n = {rows[0]['n']} test images, on at most {args.components}
principal components of the training images. Accuracies have Wilson, cluster
scores jackknife 95 % intervals. K-means (k = the number of species)
is fitted on the training images without their labels; AMI and ARI of a random
partition are 0, purity is the accuracy under the best assignment of clusters
to species. Trustworthiness is that of the map of all images.

{tables.markdown(shown)}
Most useful to a linear classifier: `{best['encoder']}`,
{interval(best, 'linear')}. Other numbers of clusters:

![sweep](sweep.png)

Maps of all images, coloured by species and by cluster:

{tables.markdown(_map_links(args, [row['encoder'] for row in rows]))}"""


def _map_links(args, names: list[str]) -> list[dict[str, str]]:
  """Returns a row an encoder, with links to those of its maps that exist."""
  rows = []
  for name in names:
    row = {'encoder': name}
    for method in args.maps.split(','):
      links = {kind: f'{name}_{method}_{kind}.png'
               for kind in ('species', 'clusters')}
      row[_TITLES[method]] = ', '.join(
          f'[{kind}]({file})' for kind, file in links.items()
          if (pathlib.Path(args.out) / file).is_file())
    rows.append(row)
  return rows


if __name__ == '__main__':
  main(sys.argv[1:])
