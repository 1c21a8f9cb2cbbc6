"""The rows of a run under the names that Keras' CSVLogger gives them.

For those whose scripts read such a file. It is a view of `metrics.jsonl`; the
names here decide nothing.
"""

from typing import Any

# Keras' own AUC() is the micro one over one-hot decisions at 200 thresholds.
_NAMES = {'accuracy': 'accuracy', 'loss': 'loss', 'auc_micro_keras': 'auc'}


def rows(
    history: list[dict[str, Any]], *, learning_rate: float,
) -> list[dict[str, Any]]:
  """Returns a row per epoch: epoch from 0, then the names in their order.

  `learning_rate` is the rate during the epoch, before a plateau reduces it;
  a run whose rate follows a schedule has it only as a multiple.

  Args:
    history: The rows of `metrics.jsonl`.
    learning_rate: The base rate, of which each row has the multiple that is
      in force after its epoch.
  """
  result, scale = [], 1.0
  for row in history:
    values = {'learning_rate': learning_rate * scale}
    for name, keras in _NAMES.items():
      for split, prefix in (('train', ''), ('validation', 'val_')):
        if f'{split}_{name}' in row:
          values[prefix + keras] = row[f'{split}_{name}']
    result.append({'epoch': row['epoch'] - 1, **dict(sorted(values.items()))})
    scale = row['rate_scale']
  return result
