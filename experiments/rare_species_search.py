"""Study 4's Hyperband over the head, on cached features; it can be resumed.

    python -m experiments.rare_species_search --root=../shared/data

90 trials in the brackets (34, 12, 4, 2), (15, 5, 2), (8, 3) and (5), at most
40 epochs each, over the study's 7,680 points. Every finished trial is a line
of `trials.jsonl`; the same command goes on where it was stopped, and `--limit`
stops it after so many new trials. The winner on validation is trained once
more by the ordinary loop and tested, and so is the head as it was before the
search. `--max_epochs` makes a smaller search.
"""

import argparse
import contextlib
import itertools
import json
import pathlib
import shlex
import sys
import time

import numpy as np

from configs import rare_species as rare_species_config
from experiments import tables
from vision_jax import config as config_lib
from vision_jax import head_trials
from vision_jax import hyperband
from vision_jax import loop
from vision_jax import runs
from vision_jax import writers
from vision_jax.analysis import comparison

_FACTOR = 3
SPACE = {
    'units1': tuple(range(128, 1025, 64)),
    'dropout1': (0.3, 0.4, 0.5, 0.6),
    'units2': tuple(range(64, 513, 64)),
    'dropout2': (0.2, 0.3, 0.4, 0.5),
    'learning_rate': (1e-2, 1e-3, 5e-4, 1e-4),
}


class Limit(Exception):
  """As many new trials as `--limit` allows have been trained."""


def main(argv: list[str]) -> None:
  """Goes on with the search and writes the report of what has finished."""
  args = _parser().parse_args(argv)
  began, out = time.perf_counter(), pathlib.Path(args.out)
  config = make_config(args)
  out.mkdir(parents=True, exist_ok=True)
  trials = search(
      runs.build(config), out / 'trials.jsonl', args, limit=args.limit)
  planned = sum(count for rungs in hyperband.brackets(
      args.max_epochs, _FACTOR) for count, _ in rungs)
  best = max(trials, key=lambda row: row['score']) if trials else None
  tested = ()
  if len(trials) == planned:
    tested = _test(config, best, args)
  writers.write_csv(out / 'trials.csv', [
      {**{k: v for k, v in row.items() if k != 'values'}, **row['values']}
      for row in trials])
  writers.write_text(out / 'report.md', _text(
      argv, args, trials, planned, best, tested,
      time.perf_counter() - began))
  print((out / 'report.md').read_text())


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog='python -m experiments.rare_species_search')
  parser.add_argument('--root', required=True, help='folder of the data sets')
  parser.add_argument('--data', default='caltech_families',
                      choices=('caltech_families', 'rare_species'))
  parser.add_argument('--model', default='efficientnet_lite0')
  parser.add_argument('--max_epochs', type=int, default=40)
  parser.add_argument('--size', type=int, default=224, help='pixels a side')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--limit', type=int, default=10_000,
                      help='train at most so many trials now')
  parser.add_argument('--runs', default='runs/rare_species/search')
  parser.add_argument('--out',
                      default='experiments/results/rare_species/search')
  return parser


def make_config(args):
  """Returns the config whose features and recipe all trials share."""
  config = rare_species_config.get_config(
      f'data={args.data},model={args.model},mode=frozen')
  return config_lib.replace(
      config, data__root=args.root, data__image_size=(args.size, args.size),
      report__progress=False, report__figures=False)


def points() -> list[dict]:
  """Returns the 7,680 settings of the study."""
  return [dict(zip(SPACE, values, strict=True))
          for values in itertools.product(*SPACE.values())]


def head(values: dict) -> tuple[str, ...]:
  """Returns the head of a setting, in the study's order of layers."""
  return ('average', 'batch_norm', f'dense:{values["units1"]}',
          f'dropout:{values["dropout1"]}', f'dense:{values["units2"]}',
          f'dropout:{values["dropout2"]}')


def winner(config, values: dict, epochs: int):
  """Returns the config that trains a setting with the ordinary loop."""
  return config_lib.replace(
      config, model__head=head(values), train__epochs=epochs,
      optimizer__learning_rate=values['learning_rate'],
      callbacks__patience=10)


def _test(config, best, args):
  """Trains the winner and the head before the search.

  Returns:
    Their rows of numbers on the test split, and the comparison of the two.
  """
  tuned = winner(config, best['values'], args.max_epochs)
  untuned = config_lib.replace(
      tuned, model__head=config.model.head,
      optimizer__learning_rate=config.optimizer.learning_rate)
  root = pathlib.Path(args.runs)
  # The folder is the winner's own: another search has another winner.
  folders = {f'winner, setting {best["setting"]}':
                 root / f'winner-{best["setting"]}',
             'before the search': root / 'untuned'}
  for each, folder in zip((tuned, untuned), folders.values(), strict=True):
    loop.train(each, folder)
  rows = [{'head': name, **tables.result_row(folder)}
          for name, folder in folders.items()]
  return rows, comparison.compare(*folders.values(), fields=(
      'model.head', 'optimizer.learning_rate'))


def search(run: runs.Run, path: pathlib.Path, args, *, limit: int):
  """Runs what is left of the search; returns the rows of all finished trials.

  Raises:
    ConfigError: The trials in `path` are those of another search.
  """
  about = {'seed': args.seed, 'data': args.data, 'model': args.model,
           'size': args.size, 'max_epochs': args.max_epochs}
  rows = writers.read_rows(path)
  if any(row['about'] != about for row in rows):
    raise config_lib.ConfigError(
        f'{path} belongs to the search {rows[0]["about"]}, not to {about}; '
        'use another --out.')
  done = {(row['setting'], row['epochs']): row['score'] for row in rows}
  advance, planned = _make_advance(run, args.seed), len(rows) + limit

  def train(number, values, epochs):
    if (number, epochs) in done:
      return done[number, epochs]
    if len(rows) == planned:
      raise Limit
    began = time.perf_counter()
    score = advance(number, values, epochs)
    rows.append({
        'setting': number, 'epochs': epochs, 'score': score, 'values': values,
        'seconds': time.perf_counter() - began, 'about': about})
    writers.write_text(
        path, ''.join(json.dumps(row) + '\n' for row in rows))
    print(f'{len(rows)}: {values}, {epochs} epochs, {score:.4f}', flush=True)
    return score

  space = points()
  order = np.random.default_rng(args.seed).permutation(len(space))
  with contextlib.suppress(Limit):
    hyperband.run(lambda number: space[order[number]], train,
                  max_epochs=args.max_epochs, factor=_FACTOR)
  return rows


def _make_advance(run: runs.Run, seed: int):
  """Returns (setting, values, epochs) -> score; it trains on where it left.

  A setting of an earlier process starts anew, which comes to the same.
  """
  start, train_on = head_trials.make(
      head_trials.load(run), classes=len(run.dataset.class_names),
      batch_size=run.config.train.batch_size)
  live = {}
  def advance(number, values, epochs):
    setting = head_trials.Setting(
        head(values), values['learning_rate'], seed + number)
    progress = live[number] if number in live else start(setting)
    live[number] = train_on(setting, progress, epochs)
    return live[number].best
  return advance


def _text(argv, args, trials, planned, best, tested, seconds) -> str:
  brackets = '; '.join(
      ', '.join(f'{count} for {epochs}' for count, epochs in rungs)
      for rungs in hyperband.brackets(args.max_epochs, _FACTOR))
  spent = sum(row['seconds'] for row in trials)
  median = np.median([row['seconds'] for row in trials]) if trials else 0.0
  text = f"""# Hyperband over the head on `{args.data}`, {args.model}

Command: `python -m experiments.rare_species_search {shlex.join(argv)}`

Machine: {tables.machine()}. **{len(trials)} of {planned} trials finished**, in
{spent:.0f} s by the clock, pauses for other work included: the median trial took
{median:.1f} s. This command took {seconds:.0f} s, what was cached before left out.

Brackets (trials for epochs): {brackets}. The space has {len(points())} points;
the objective is the best validation accuracy of a trial. A program is compiled
for each pair of widths after rounding up, not for each trial.
"""
  if best is None:
    return text
  ranked = sorted(trials, key=lambda row: -row['score'])[:8]
  text += '\n' + tables.markdown([
      {'setting': row['setting'], 'epochs': row['epochs'],
       'validation accuracy': row['score'], **row['values']}
      for row in ranked])
  if not tested:
    return text + '\nThe search is not complete: no winner has been tested.\n'
  rows, found = tested
  return text + f"""
The winner, setting {best['setting']}, and the head as it was before the search,
both trained anew by the ordinary loop with early stopping, on the test images
that the search never saw:

{tables.markdown(rows)}
Paired, the winner gains {found.accuracy.estimate:+.4f} of accuracy
[{found.accuracy.low:+.4f}, {found.accuracy.high:+.4f}] (n = {found.n}, McNemar
p = {found.test.p_value:.2g}).
"""


if __name__ == '__main__':
  main(sys.argv[1:])
