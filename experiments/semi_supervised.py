"""What unlabelled butterflies are worth: supervised, pseudo-label, FixMatch.

    python -m experiments.semi_supervised --root=../shared/data

All methods train the same network from random weights, on the same labelled
rows in the same order for the same number of steps, and are tested with the
weights of the last step, so they differ in config.semi alone. No run looks at
test images before its end; but FixMatch's threshold, teacher and policy were
changed once after a first run had been tested (configs/semi_supervised.py).
Writes `table.csv`, `comparisons.csv`, `validation.png` and `report.md`;
finished runs are kept in `--runs` and not repeated.
"""

import argparse
import json
import pathlib
import shlex
import sys
from typing import Any

from configs import semi_supervised
from experiments import tables
from vision_jax import loop
from vision_jax import stats
from vision_jax import writers
from vision_jax.analysis import comparison
from vision_jax.analysis import figures

_BASELINE = 'supervised'


def main(argv: list[str]) -> None:
  """Trains what is missing and writes the report."""
  args = _parser().parse_args(argv)
  folders = {}
  for seed in range(args.seeds):
    for method in args.methods.split(','):
      config = make_config(args, method, seed)
      folder = pathlib.Path(args.runs) / f'{config.name}-{args.fraction}-{seed}'
      print(folder, flush=True)
      loop.train(config, folder)
      folders[method, seed] = folder
  write(folders, args, argv)
  print((pathlib.Path(args.out) / 'report.md').read_text())


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m experiments.semi_supervised')
  parser.add_argument('--root', required=True, help='folder of the data sets')
  parser.add_argument('--data', default='butterflies')
  parser.add_argument('--methods', default=f'{_BASELINE},fixmatch,pseudo_label')
  parser.add_argument('--fraction', type=float, default=0.1,
                      help='of labelled training images')
  parser.add_argument('--epochs', type=int, default=20,
                      help='passes over the unlabelled images')
  parser.add_argument('--pixels', type=int, default=32)
  parser.add_argument('--seeds', type=int, default=1)
  parser.add_argument('--runs', default='runs/semi_supervised')
  parser.add_argument('--out', default='experiments/results/semi_supervised')
  return parser


def make_config(args, method: str, seed: int):
  """Returns the config of one run."""
  config = semi_supervised.get_config(
      f'data={args.data},method={method},fraction={args.fraction},'
      f'epochs={args.epochs},pixels={args.pixels}')
  config.data.root = args.root
  config.seed = seed
  return config


def write(folders: dict[tuple[str, int], pathlib.Path], args, argv) -> None:
  """Writes the tables, the figure and the report from the run folders."""
  out = pathlib.Path(args.out)
  rows = [row_of(method, seed, folder)
          for (method, seed), folder in folders.items()]
  pairs = [pair_of(method, seed, folder, folders[_BASELINE, seed])
           for (method, seed), folder in folders.items()
           if method != _BASELINE and (_BASELINE, seed) in folders]
  writers.write_csv(out / 'table.csv', rows)
  writers.write_csv(out / 'comparisons.csv', pairs)
  figures.interval_plot(
      {method: curve_of(folder)
       for (method, seed), folder in folders.items() if seed == 0},
      out / 'validation.png', xlabel='epoch of the unlabelled images',
      ylabel='validation accuracy, 95 %', references={})
  writers.write_text(out / 'report.md', report(rows, pairs, args, argv))


def row_of(method: str, seed: int, folder: pathlib.Path) -> dict[str, Any]:
  """Returns what the table shows of a run, with how its teacher ended."""
  last = writers.read_rows(folder / 'metrics.jsonl')[-1]
  result = json.loads((folder / 'result.json').read_text())
  row = tables.result_row(folder)
  shown = ('n_test', 'accuracy', 'accuracy_low', 'accuracy_high', 'macro_f1',
           'macro_f1_low', 'macro_f1_high', 'trainable')
  return {
      'method': method, 'seed': seed, 'n_labelled': row['n_train'],
      'n_unlabelled': result['examples']['unlabelled'],
      **{name: row[name] for name in shown}, 'steps': result['steps'],
      'validation_accuracy': last['validation_accuracy'],
      'confident': last['train_confident'], 'seconds': row['seconds']}


def curve_of(folder: pathlib.Path) -> list[tuple[float, ...]]:
  """Returns every second epoch's validation accuracy with its interval."""
  points = []
  for row in writers.read_rows(folder / 'metrics.jsonl')[1::2]:
    n, value = row['validation_n'], row['validation_accuracy']
    points.append((row['epoch'], value, *stats.wilson(round(value * n), n)))
  return points


def pair_of(method: str, seed: int, folder, baseline) -> dict[str, Any]:
  """Returns a method's paired difference from the supervised run."""
  found = comparison.compare(folder, baseline, fields=('semi.',))
  row = {'method': method, 'seed': seed, 'n': found.n}
  for name in ('accuracy', 'macro_f1'):
    interval = getattr(found, name)
    row |= {name: interval.estimate, f'{name}_low': interval.low,
            f'{name}_high': interval.high}
  return row | {'only_it': found.test.only_a,
                'only_supervised': found.test.only_b,
                'mcnemar_p': found.test.p_value}


def report(rows, pairs, args, argv) -> str:
  """Returns the Markdown report; every number comes from the run folders."""
  first = rows[0]
  verdicts = '\n'.join(
      f'- {pair["method"]}, seed {pair["seed"]}: {pair["accuracy"]:+.3f} '
      f'[{pair["accuracy_low"]:+.3f}, {pair["accuracy_high"]:+.3f}], '
      + ('better than supervised' if pair['accuracy_low'] > 0 else
         'worse than supervised' if pair['accuracy_high'] < 0 else
         'not told apart from supervised')
      + f' (McNemar p = {pair["mcnemar_p"]:.2g}).' for pair in pairs)
  return f"""# A few labels and many images: `{args.data}`

Command: `python -m experiments.semi_supervised {shlex.join(argv)}`

Machine: {tables.machine()}; all runs together {
    sum(row['seconds'] for row in rows):.0f} s.

{first['n_labelled']} labelled and {first['n_unlabelled']} unlabelled training
images, {args.pixels} pixels, a residual network of {first['trainable']:,}
parameters from random weights. Every run makes {first['steps']} steps on the
same labelled rows and is tested once, with the averaged weights of its last
step, on n = {first['n_test']} images. `confident` is the share of the last
epoch's unlabelled images whose pseudo-label counted. The intervals are over
test images; how much a seed matters is seen only where there are several.
FixMatch's settings were chosen after an earlier setting had been tested once;
see the end of the docstring of configs/semi_supervised.py.

{tables.markdown(rows)}
On the way, with seed 0, on the validation images:

![validation](validation.png)

Differences of accuracy from the supervised run, paired on the same test images
(95 % bootstrap):

{verdicts}

{tables.markdown(pairs)}"""


if __name__ == '__main__':
  main(sys.argv[1:])
