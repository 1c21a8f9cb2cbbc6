"""Tables, figure and pages of study 0's grid, from finished run folders.

Reads result.json, config.json and predictions.csv and trains nothing. What the
numbers say about the study's claims is experiments/butterflies_claims.py's.
"""

import pathlib
from typing import Any

from experiments import butterflies_artefacts
from experiments import butterflies_cells as cells_lib
from experiments import butterflies_claims
from experiments import tables
from vision_jax import results
from vision_jax import stats
from vision_jax import writers
from vision_jax.analysis import comparison
from vision_jax.analysis import figures

_PAIRS = tuple(dict.fromkeys(
    pair for claim in butterflies_claims.CLAIMS for pair in claim.pairs)) + (
        ('fixmatch', 'a_matched'), ('fixmatch', 'b1'), ('lite0', 'b1'))
# What the models differ in: architecture, encoder weights, frozen part.
_FIELDS = ('model.', 'published.')
# And models of other kinds, each with its own recipe on the same split.
_RECIPE = _FIELDS + ('task', 'semi.', 'optimizer.', 'train.', 'callbacks.',
                     'augment.', 'data.image_size')


def row_of(cell: cells_lib.Cell, folder: pathlib.Path) -> dict[str, Any]:
  """Returns a finished run's row of `table.csv`."""
  config = cells_lib.read_config(folder)
  # How long its autoencoder was trained, where that is still there.
  donor, epochs = pathlib.Path(config.model.weights), None
  if cell.model in cells_lib.PRETRAINED and results.exists(donor):
    epochs = cells_lib.read_config(donor).train.epochs
  key = (cell.model, cell.fraction)
  study = cells_lib.PUBLISHED
  return {
      'run': cell.name, 'protocol': config.protocol, 'model': cell.model,
      'fraction': cell.fraction, 'cut': cell.labels if cell.cut else '',
      'seed': cell.seed, 'same_network': cell.model in cells_lib.SAME_NETWORK,
      **tables.result_row(folder), 'pretraining_epochs': epochs,
      'published_accuracy': (
          study[key][0] if key in study and not cell.cut else None)}


def summarize(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns a row per model and fraction: the mean over seeds.

  The interval is Student's over seeds, which says how far another seed may
  land; with one seed it is Wilson's over the test examples.
  """
  cells = {}
  for row in rows:
    cells.setdefault((row['model'], row['fraction'], row['cut']), []).append(
        row)
  summary = []
  for (model, fraction, cut), group in cells.items():
    line = {'model': model, 'labels': cut or f'{100 * fraction:g} %',
            'seeds': len(group), 'n_train': group[0]['n_train'],
            'n_test': group[0]['n_test']}
    for name in ('accuracy', 'macro_f1'):
      mean = stats.mean_interval([row[name] for row in group])
      low, high = mean.low, mean.high
      if len(group) == 1:
        low, high = (group[0][f'{name}_{end}'] for end in ('low', 'high'))
      line |= {name: mean.estimate, f'{name} 95 %': '' if low is None else (
          f'[{max(low, 0):.3f}, {min(high, 1):.3f}]')}
      line[f'_{name}'] = (mean.estimate, low, high)
    line['study'] = group[0]['published_accuracy']
    line['pretraining epochs'] = group[0]['pretraining_epochs']
    line['epochs'] = '/'.join(str(row['epochs']) for row in group)
    line['seconds'] = round(sum(row['seconds'] for row in group))
    line |= {'_at': fraction, '_cut': cut, '_run': group[0]['run']}
    summary.append(line)
  return summary


def compare(
    folders: dict[cells_lib.Cell, pathlib.Path]) -> list[dict[str, Any]]:
  """Compares pairs of models at equal fraction, cut and seed only."""
  lines = []
  for cell, folder in folders.items():
    for b in (other for a, other in _PAIRS if a == cell.model):
      other = cell._replace(model=b)
      if other not in folders or cell.cut and not {
          cell.model, b} & set(cells_lib.PRETRAINED):
        continue
      same = {cell.model, b} <= set(cells_lib.SAME_NETWORK) | {'a'}
      found = comparison.compare(
          folder, folders[other], fields=_FIELDS if same else _RECIPE,
          read=cells_lib.read_config)
      line = {'labels': cell.fraction, 'cut': cell.labels if cell.cut else '',
              'seed': cell.seed, 'A': cell.model, 'B': b,
              'same_network': {cell.model, b} <= set(cells_lib.SAME_NETWORK),
              'n': found.n}
      right = [round(results.read(each)['test']['accuracy'] * found.n)
               for each in (folder, folders[other])]
      relative = butterflies_claims.relative_gain(
          *right, found.test.only_a, found.test.only_b)
      for name, value in (('accuracy', found.accuracy), (
          'macro_f1', found.macro_f1), ('relative', relative)):
        line |= {name: value.estimate, f'{name}_low': value.low,
                 f'{name}_high': value.high}
      lines.append(line | {
          'only_a': found.test.only_a, 'only_b': found.test.only_b,
          'mcnemar_p': found.test.p_value})
  return lines


def matrix(cells: list[cells_lib.Cell], summary) -> list[dict[str, str]]:
  """Returns accuracy by model and column, the study's own beneath."""
  found = {(line['model'], line['labels']): line for line in summary}
  rows = {}
  for cell in cells:
    key, row = (cell.model, cell.labels), rows.setdefault(
        cell.model, {'model': f'**{cell.model}**'})
    line = found[key] if key in found else None
    row[cell.labels] = (
        f'{line["accuracy"]:.3f} {line["accuracy 95 %"]}' if line else
        'missing' if cell.defined else 'nothing unlabelled')
  for (model, fraction), (accuracy, _) in (
      cells_lib.PUBLISHED.items()):
    column = cells_lib.Cell(model, fraction, False, 0).labels
    if model in rows and column in rows[model]:
      rows.setdefault(f'{model}, study', {'model': f'{model}, study'})[
          column] = f'{accuracy:.3f}'
  return [rows[name] for model in cells_lib.MODELS
          for name in (model, f'{model}, study') if name in rows]


def write(
    folders: dict[cells_lib.Cell, pathlib.Path],
    cells: list[cells_lib.Cell],
    *,
    protocol: str,
    out: pathlib.Path,
    command: str,
    remedies: list[str],
    sound: dict[cells_lib.Cell, pathlib.Path]) -> str:
  """Writes every file of the report and returns its text.

  Args:
    folders: The finished runs.
    cells: The whole grid.
    protocol: That of all of them.
    out: Where the files go; the results of other experiments lie beside it.
    command: The command that was given.
    remedies: The commands that train the cells that are missing.
    sound: Finished runs of the sound protocol, to which the published ones
      are compared.
  """
  rows = [row_of(cell, folder) for cell, folder in folders.items()]
  summary, pairs = summarize(rows), compare(folders)
  claims, page = butterflies_claims.conclusions(
      butterflies_claims.Measured(rows, pairs, out.parent))
  writers.write_csv(out / 'table.csv', rows)
  writers.write_csv(out / 'pairs.csv', pairs)
  writers.write_csv(out / 'claims.csv', claims)
  series = {}
  for line in summary:
    if not line['_cut']:
      series.setdefault(line['model'], []).append(
          (line['_at'], *line['_accuracy']))
  if series:
    figures.interval_plot(
        series, out / 'accuracy.png', xlabel='fraction of labels',
        ylabel='test accuracy, 95 %', references={'chance': 1 / 20})
  mistakes = ''
  if protocol == 'published':
    found = butterflies_artefacts.compare(folders, sound)
    writers.write_csv(out / 'artefacts.csv', found)
    mistakes = butterflies_artefacts.section(found)
  text = report(cells, rows, summary, pairs, protocol=protocol,
                command=command, remedies=remedies, mistakes=mistakes)
  writers.write_text(out / 'report.md', text)
  writers.write_text(out / 'conclusions.md',
                     _conclusions(claims, page, protocol=protocol))
  return text


def report(
    cells, rows, summary, pairs, *, protocol, command, remedies, mistakes
) -> str:
  """Returns the Markdown report; every number in it comes from the rows."""
  # Without an autoencoder a cut is the same run as a fraction.
  runs = {}
  for line in summary:
    runs.setdefault(line['_run'], line)
  shown = [{key: value for key, value in line.items() if key[0] != '_'}
           for line in runs.values()]
  compared = [{
      'labels': row['cut'] or f'{100 * row["labels"]:g} %',
      'seed': row['seed'], 'A': row['A'], 'B': row['B'],
      'same network': 'yes' if row['same_network'] else 'no', 'n': row['n'],
      'accuracy A - B': row['accuracy'],
      '95 %': f'[{row["accuracy_low"]:+.3f}, {row["accuracy_high"]:+.3f}]',
      'F1 A - B': row['macro_f1'],
      'F1 95 %': f'[{row["macro_f1_low"]:+.3f}, {row["macro_f1_high"]:+.3f}]',
      'only A right': row['only_a'], 'only B right': row['only_b'],
      'McNemar p': row['mcnemar_p']} for row in pairs]
  found = tables.markdown(compared) if compared else 'No pair has finished.\n'
  seconds = sum({row['run']: row['seconds'] for row in rows}.values())
  missing = ('Nothing.' if not remedies else
             'A finished run is not repeated, a stopped one goes on.\n\n'
             '```sh\n' + '\n'.join(remedies) + '\n```')
  return f"""# Butterflies, experiment 1: protocol `{protocol}`

Command: `{command}`

Machine: {tables.machine()}. Classifiers took {seconds:.0f} s in all.
What follows from the numbers is on [a page of its own](conclusions.md).

## Test accuracy

Means over seeds with Student's 95 % interval over seeds, each of which draws
other labelled images and other weights; with one seed, Wilson's over the test
examples, which knows nothing of that. `study` is Table I, one fit each, and its
autoencoder saw all training images without their labels, as ours did. At the
assignment's cuts, unlabelled/labelled, it sees the unlabelled ones only.
`a_matched` is A with B2's architecture; `dae` is the encoder of a denoising
autoencoder; `lite0` has ImageNet's weights; `fixmatch` is another network,
from random weights, on 32 px images, with settings that were chosen after one
test of others (configs/semi_supervised.py).

{tables.markdown(matrix(cells, summary))}
![accuracy](accuracy.png)

## Accuracy and macro F1 on the whole test set

{tables.markdown(shown)}
## Models compared at equal fractions and seeds

Differences on the same test examples, with paired bootstrap intervals and
McNemar's exact test, not corrected for their number.

{found}
{mistakes}## What is missing

{missing}
"""


def _conclusions(claims, page: str, *, protocol: str) -> str:
  count = lambda name: sum(row['verdict'] == name for row in claims)
  return f"""# Butterflies: the study's claims, and what the runs say (`{protocol}`)

{len(claims)} claims. Hold: {count(butterflies_claims.HOLDS)}. Do not hold: {
    count(butterflies_claims.FAILS)}. Undecided: {
    count(butterflies_claims.OPEN)}. What is
`not measured` is a command away at the end of [the report](report.md).
A claim holds if all of its tests do (their 95 % interval lies on its side),
and does not if one lies on the other side. Intervals of differences are paired
bootstraps over the test images, or Student's over seeds where there are
several; tests are not corrected for their number. The last column counts the
differences that the study's own Table I shows.

{tables.markdown(claims)}
## The tests behind it

{page}"""
