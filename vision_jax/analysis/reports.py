"""Tables and figures at the end of a run, one function a task.

Each takes a `task.Outcome`, writes into its folder and returns what belongs
into `result.json`. Nothing here runs a training step.
"""

from typing import Any, Callable

import numpy as np

from vision_jax import image_metrics
from vision_jax import metrics
from vision_jax import stats
from vision_jax import task as task_lib
from vision_jax import writers
from vision_jax.analysis import figures
from vision_jax.analysis import intervals


def classification(
    outcome: task_lib.Outcome,
    *,
    class_names: tuple[str, ...],
    table: Callable[..., dict[str, Any]],
    with_figures: bool,
    with_guard: bool) -> dict[str, Any]:
  """Writes predictions, the per-class table and the confusion matrix.

  Args:
    outcome: Of a classification run.
    class_names: Names in the order of the labels.
    table: The task's prediction table.
    with_figures: Whether PNG files are drawn.
    with_guard: Whether misaligned test predictions are refused.

  Returns:
    95 % intervals: Wilson's of accuracy, the bootstrap's of the others.

  Raises:
    MisalignedEvaluation: If test predictions are no better than a permutation
      while validation is far above chance.
  """
  outputs = outcome.outputs['test']
  labels, predicted = _pairs(outputs)
  writers.write_csv(outcome.folder / 'predictions.csv', prediction_rows(
      outcome, {'label': [class_names[i] for i in labels], **table(outputs)}))
  if with_guard and 'validation' in outcome.outputs:
    metrics.permutation_guard(labels, predicted, metrics.confusion(
        *_pairs(outcome.outputs['validation']), len(class_names)))
  rows = metrics.per_class(labels, predicted, class_names)
  writers.write_csv(outcome.folder / 'per_class.csv', rows)
  if with_figures:
    folder = outcome.folder / 'figures'
    figures.confusion_matrix(
        metrics.confusion(labels, predicted, len(class_names)), class_names,
        folder / 'confusion_matrix.png')
    figures.per_class_bars(rows, folder / 'per_class.png')
  return {'intervals': intervals.classification(
      labels, outputs['probabilities'])}


def _pairs(outputs):
  """Labels and predicted classes, both [n]."""
  return outputs['label'], outputs['probabilities'].argmax(-1)


def prediction_rows(
    outcome: task_lib.Outcome, columns: dict[str, Any]) -> list[dict[str, Any]]:
  """Returns a row per test example: its id, its path and `columns`."""
  ids = outcome.outputs['test']['id']
  columns = {'id': ids.tolist(), 'path': [outcome.ids[i] for i in ids],
             **columns}
  return [dict(zip(columns, row, strict=True))
          for row in zip(*columns.values(), strict=True)]


def reconstruction(
    outcome: task_lib.Outcome,
    *,
    rows: Callable[..., Any],
    with_figures: bool) -> dict[str, Any]:
  """Writes the errors of every test image and a figure of a few.

  Args:
    outcome: Of a run that restores images; its outputs have `mse` and `ssim`.
    rows: (state, batch) -> images [B, H, W, C] in [0, 1] by the name of their
      row in the figure.
    with_figures: Whether PNG files are drawn.

  Returns:
    95 % intervals of mean squared error, PSNR and SSIM over the test images.
  """
  outputs = outcome.outputs['test']
  columns = {name: outputs[name].tolist() for name in ('mse', 'ssim')}
  writers.write_csv(
      outcome.folder / 'predictions.csv', prediction_rows(outcome, columns))
  if with_figures:
    figures.reconstructions(
        {name: np.clip(images, 0, 1)
         for name, images in rows(outcome.state, outcome.batch).items()},
        outcome.folder / 'figures' / 'reconstructions.png')
  return {'intervals': restoration_intervals(outputs)}


def restoration_intervals(
    outputs: dict[str, np.ndarray]) -> dict[str, list[float]]:
  """Returns {metric: [low, high]} at 95 % over images.

  Args:
    outputs: `mse` and `ssim` of each image, [n].
  """
  def summary(mse, ssim):
    numbers = image_metrics.reconstruction(mse, data_range=1.0)
    return {**numbers, 'ssim': float(ssim.mean(dtype=np.float64))}
  result = {}
  for name in ('mse', 'psnr', 'ssim'):
    interval = stats.bootstrap(
        lambda *arrays, name=name: summary(*arrays)[name],
        (outputs['mse'], outputs['ssim']),
        strata=np.zeros(len(outputs['mse']), int))
    result[name] = [interval.low, interval.high]
  return result
