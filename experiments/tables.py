"""Small tables that experiments share: Markdown, and runs as rows."""

import json
import pathlib
from typing import Any

from vision_jax import processor
from vision_jax import writers


def markdown(rows: list[dict[str, Any]]) -> str:
  """Returns rows as a Markdown table; floats with four digits."""
  columns = list(dict.fromkeys(key for row in rows for key in row))
  def text(value):
    if value is None:
      return ''
    return f'{value:.4g}' if isinstance(value, float) else str(value)
  lines = ['| ' + ' | '.join(columns) + ' |', '|' + '---|' * len(columns)]
  lines += ['| ' + ' | '.join(
      text(row[c]) if c in row else '' for c in columns) + ' |'
            for row in rows]
  return '\n'.join(lines) + '\n'


def result_row(folder: str | pathlib.Path) -> dict[str, Any]:
  """Returns what every table shows of a finished classification run.

  Accuracy and F1 come with their 95 % intervals over the n test examples, None
  where the run reports none.
  """
  result = json.loads((pathlib.Path(folder) / 'result.json').read_text())
  test, intervals = result['test'], result['intervals']
  row = {'n_train': result['examples']['train'], 'n_test': test['n']}
  for name in ('accuracy', 'macro_f1'):
    low, high = intervals[name] if name in intervals else (None, None)
    row |= {name: test[name], f'{name}_low': low, f'{name}_high': high}
  return row | {
      'macro_precision': test['macro_precision'],
      'macro_recall': test['macro_recall'],
      'loss': test['loss'],
      'trainable': result['parameters']['trainable'],
      'epochs': result['epochs'],
      'best_epoch': result['best_epoch'],
      'seconds': result['seconds'],
  }


def machine() -> str:
  """Describes the machine in one line, for a report."""
  about = writers.environment()
  # They decide who wins.
  vectors = processor.vectors() and f' with {processor.vectors()}'
  return (f'{about["cpu_count"]} CPU cores{vectors}, devices '
          f'{", ".join(about["devices"])}, jax {about["packages"]["jax"]}, '
          f'Python {about["python"]}')
