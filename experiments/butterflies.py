"""Study 0, experiment 1: Table I again, with what it lacked.

    python -m experiments.butterflies --root=../shared/data \
        --fractions=0.1,0.25 --models=a_matched,b1,b2 --seeds=0,1,2

Pre-trains the U-Net autoencoder once, trains every model at every fraction of
labels and writes `table.csv`, `report.md` and `accuracy.png` from the runs'
result files. Finished runs are not repeated, so the script can be stopped and
started again. The study's own budget is the default; on two CPU cores at
128 px an epoch of the autoencoder takes about two minutes.
"""

import argparse
import itertools
import pathlib
import shlex
import sys
from typing import Any

from configs import transfer
from experiments import tables
from vision_jax import loop
from vision_jax import stats
from vision_jax import writers
from vision_jax.analysis import comparison
from vision_jax.analysis import figures

# Table I of the study, test accuracy by (model, fraction); n = 500.
PUBLISHED = {
    ('a', 0.1): .444, ('b1', 0.1): .396, ('b2', 0.1): .198,
    ('a', 0.25): .288, ('b1', 0.25): .410, ('b2', 0.25): .294,
    ('a', 0.5): .458, ('b1', 0.5): .448, ('b2', 0.5): .488,
    ('a', 0.75): .520, ('b1', 0.75): .562, ('b2', 0.75): .564,
    ('a', 1.0): .540, ('b1', 1.0): .606, ('b2', 1.0): .566,
}
_MODELS = ('a', 'a_matched', 'b1', 'b2')
# What the models differ in: architecture, encoder weights, frozen part.
_FIELDS = ('model.', 'published.')


def main(argv: list[str]) -> None:
  """Runs the grid and writes the report."""
  args = _parser().parse_args(argv)
  out = pathlib.Path(args.out)
  rows, folders = [], {}
  previous = ''
  for fraction, model, seed in itertools.product(
      _numbers(args.fractions), args.models.split(','),
      [int(seed) for seed in args.seeds.split(',')]):
    folder = (pathlib.Path(args.runs) / args.protocol /
              f'{model}-{fraction:g}-seed{seed}')
    config = make_config(args, model, fraction, seed)
    if args.protocol == 'published' and previous:
      # One early-stopping object served all fits of the study.
      config.published.switches += ('shared_callbacks',)
      config.published.callbacks_from = previous
    print(f'{folder}', flush=True)
    loop.train(config, folder)
    previous = str(folder)
    folders[model, fraction, seed] = folder
    rows.append({
        'protocol': args.protocol, 'model': model, 'fraction': fraction,
        'seed': seed, **tables.result_row(folder),
        'published_accuracy': _published(model, fraction)})
  writers.write_csv(out / 'table.csv', rows)
  summary = summarize(rows)
  figures.interval_plot(
      _series(summary), out / 'accuracy.png', xlabel='fraction of labels',
      ylabel='test accuracy (n = 500)',
      references={'chance': 1 / 20})
  writers.write_text(out / 'report.md', report(
      args, argv, rows, summary, compare(folders)))
  print((out / 'report.md').read_text())


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m experiments.butterflies')
  parser.add_argument('--root', required=True, help='folder of the data sets')
  parser.add_argument('--fractions', default='0.1,0.25,0.5,0.75,1.0')
  parser.add_argument('--models', default=','.join(_MODELS))
  parser.add_argument('--seeds', default='0')
  parser.add_argument('--protocol', default='sound',
                      choices=('sound', 'published', 'modern'))
  parser.add_argument('--pretrain_epochs', type=int, default=30,
                      help='longest training of the autoencoder')
  parser.add_argument('--epochs', type=int, default=0,
                      help='longest training of a classifier; 0 = the config')
  parser.add_argument('--runs', default='runs/butterflies')
  parser.add_argument('--out', default='experiments/results/butterflies')
  return parser


def _numbers(text: str) -> list[float]:
  return [float(part) for part in text.split(',')]


def make_config(args, model: str, fraction: float, seed: int):
  """Returns the config of one cell of the grid."""
  config = transfer.get_config(
      f'data=butterflies,model={model},fraction={fraction},'
      f'protocol={args.protocol}')
  config.seed = seed
  config.data.root = args.root
  if config.model.weights and args.pretrain_epochs != 30:
    config.model.weights += f',epochs={args.pretrain_epochs}'
  if args.epochs:
    config.train.epochs = args.epochs
  return config


def _published(model: str, fraction: float) -> float | None:
  """Table I's accuracy; A with B2's architecture is not in it."""
  key = (model, fraction)
  return PUBLISHED[key] if key in PUBLISHED else None


def summarize(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns a row per model and fraction: the mean over seeds.

  The interval is Student's over seeds, which says how far another seed may
  land; with one seed it is Wilson's over the test examples.
  """
  cells = {}
  for row in rows:
    cells.setdefault((row['model'], row['fraction']), []).append(row)
  summary = []
  for (model, fraction), group in cells.items():
    line = {'model': model, 'labels': fraction, 'seeds': len(group),
            'n_train': group[0]['n_train'], 'n_test': group[0]['n_test']}
    for name in ('accuracy', 'macro_f1'):
      mean = stats.mean_interval([row[name] for row in group])
      low, high = mean.low, mean.high
      if len(group) == 1:
        low, high = (group[0][f'{name}_{end}'] for end in ('low', 'high'))
      line |= {name: mean.estimate,
               f'{name} 95 %': f'[{max(low, 0):.3f}, {min(high, 1):.3f}]'}
      line[f'_{name}'] = (mean.estimate, low, high)
    line['study'] = group[0]['published_accuracy']
    line['epochs'] = '/'.join(str(row['epochs']) for row in group)
    line['seconds'] = round(sum(row['seconds'] for row in group))
    summary.append(line)
  return summary


def _series(summary) -> dict[str, list[tuple[float, float, float, float]]]:
  series = {}
  for line in summary:
    series.setdefault(line['model'], []).append(
        (line['labels'], *line['_accuracy']))
  return series


def compare(folders) -> list[dict[str, Any]]:
  """Compares the models in pairs, at equal fraction and seed only."""
  lines = []
  models = list(dict.fromkeys(model for model, _, _ in folders))
  cells = list(dict.fromkeys((f, seed) for _, f, seed in folders))
  for (fraction, seed), (a, b) in itertools.product(
      cells, itertools.combinations(models, 2)):
    found = comparison.compare(
        folders[a, fraction, seed], folders[b, fraction, seed],
        fields=_FIELDS)
    lines.append({
        'labels': fraction, 'seed': seed, 'A': a, 'B': b, 'n': found.n,
        'accuracy A - B': found.accuracy.estimate,
        '95 %': f'[{found.accuracy.low:+.3f}, {found.accuracy.high:+.3f}]',
        'only A right': found.test.only_a, 'only B right': found.test.only_b,
        'McNemar p': found.test.p_value})
  return lines


def report(args, argv, rows, summary, comparisons) -> str:
  """Returns the Markdown report; every number in it comes from the rows."""
  shown = [{key: value for key, value in line.items() if key[0] != '_'}
           for line in summary]
  seconds = sum(row['seconds'] for row in rows)
  return f"""# Butterflies, experiment 1: protocol `{args.protocol}`

Command: `python -m experiments.butterflies {shlex.join(argv)}`

Machine: {tables.machine()}. Classifiers took {seconds:.0f} s in all.
The autoencoder trained at most {args.pretrain_epochs} epochs, on the training
images of the 20 species without their labels.

## Accuracy and macro F1 on the whole test set

Means over seeds with Student's 95 % interval over seeds; with one seed,
Wilson's and the bootstrap's over test examples. `study` is the accuracy of
Table I, from one fit each.

{tables.markdown(shown)}
![accuracy](accuracy.png)

{_comparison_section(comparisons)}"""


def _comparison_section(comparisons) -> str:
  if not comparisons:
    return ''
  return f"""## Models compared at equal fractions and seeds

Differences on the same test examples, with paired bootstrap intervals and
McNemar's exact test.

{tables.markdown(comparisons)}"""


if __name__ == '__main__':
  main(sys.argv[1:])
