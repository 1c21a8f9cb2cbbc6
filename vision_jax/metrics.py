"""Whole-set numbers of classification, and the sums training keeps on device.

Training sums are masked averages that live inside jit. Evaluation collects one
row per example and computes once, on the host, in float64, so that neither the
batch size nor the order of the examples can change a number. This file knows no
config and no file, draws nothing, and never averages a metric over batches.
"""

import functools
from typing import Any

from clu import metrics as clu_metrics
import flax.struct
import jax
import numpy as np

from vision_jax import scores
from vision_jax import stats

# scikit-learn's clip for the logarithm of float64 probabilities.
_EPSILON = np.finfo(np.float64).eps


class MisalignedEvaluation(RuntimeError):
  """Predictions seem paired with the labels of other examples."""


@functools.cache
def averages(*names: str) -> type[clu_metrics.Collection]:
  """Makes a collection of masked averages, usable inside jit.

  `.single_from_model_output(loss=..., accuracy=..., mask=...)` takes arrays of
  shape [B] (mask 0 drops a row), `.merge` adds, `.empty()` is the start value,
  `.compute()` gives {name: mean over all real rows}. Equal names give the same
  class, so that collections from two calls merge.
  """
  return clu_metrics.Collection.create(
      **{name: _masked_average(name) for name in names})


def _masked_average(name: str) -> type[clu_metrics.Average]:
  @flax.struct.dataclass
  class MaskedAverage(clu_metrics.Average):

    @classmethod
    def from_model_output(cls, *, mask: jax.Array, **outputs: jax.Array):
      # clu would ignore a mask that does not fit and average padding rows too.
      if outputs[name].shape != mask.shape:
        raise ValueError(
            f'{name!r} has shape {outputs[name].shape} but the mask '
            f'{mask.shape}: pass one value per example')
      return super().from_model_output(outputs[name], mask=mask)

  return MaskedAverage


@flax.struct.dataclass
class Examples(clu_metrics.CollectingMetric):
  """Named outputs of every example, collected on the host outside jit."""


@functools.cache
def make_collector(names: tuple[str, ...]) -> type[Examples]:
  """Makes an `Examples` of the outputs `names` besides `id` and `mask`.

  Args:
    names: outputs of shape [B, ...], such as ('label', 'probabilities').
  """
  return Examples.from_outputs(('id', 'mask', *names))


def examples(collected: Examples) -> dict[str, np.ndarray]:
  """Returns the collected outputs, one row per real example, sorted by id.

  Raises:
    ValueError: nothing was collected, or an id occurs twice.
  """
  values = collected.compute()
  if not values:
    raise ValueError('no batch was collected: the evaluated split is empty')
  real = values.pop('mask') > 0
  values = {name: value[real] for name, value in values.items()}
  order = np.argsort(values['id'], kind='stable')
  values = {name: value[order] for name, value in values.items()}
  check_complete(values['id'], np.unique(values['id']))
  return values


def check_complete(ids: np.ndarray, expected: np.ndarray) -> None:
  """Checks that every expected example was evaluated exactly once.

  Args:
    ids: int [n], the ids that came out of the evaluation.
    expected: int [m], the ids of the split.

  Raises:
    ValueError: an id repeats, is missing, or does not belong to the split.
  """
  found, counts = np.unique(ids, return_counts=True)
  problems = {
      'repeated': found[counts > 1],
      'missing': np.setdiff1d(expected, found),
      'unexpected': np.setdiff1d(found, expected),
  }
  problems = {kind: rows for kind, rows in problems.items() if rows.size}
  if problems:
    summary = '; '.join(f'{rows.size} {kind}, such as {rows[:5].tolist()}'
                        for kind, rows in problems.items())
    raise ValueError(
        f'evaluation has to see each of {len(expected)} examples once, but of '
        f'the ids {summary}: pad the last batch and mask the padding')


def classification(
    labels: np.ndarray,
    probabilities: np.ndarray,
    *,
    losses: np.ndarray | None = None,
    top_k: tuple[int, ...] = (5,),
) -> dict[str, float]:
  """Computes every classification number of a whole evaluation set.

  The definitions are scikit-learn's, which takes longer to import than these
  numbers take for a thousand epochs. Precision, recall and F1 run over the
  classes that occur in the labels or the predictions (an empty denominator
  counts 0), balanced accuracy over those in the labels. AUC (one versus rest)
  and average precision are means over the classes that have both positive and
  negative examples; `classes_present` says how many classes the labels hold.
  What is undefined is nan: both of these and kappa, with a single class.

  Args:
    labels: int [n].
    probabilities: float [n, classes], rows adding up to one.
    losses: float [n], training-loss values, reported as their mean `loss`.
    top_k: `top_<k>_accuracy` for each k below the number of classes.

  Raises:
    ValueError: shapes or values do not fit together.
  """
  labels, p = scores.check_probabilities(labels, probabilities)
  n, classes = p.shape
  predicted = p.argmax(axis=1)
  result = {'n': n, 'classes_present': len(np.unique(labels))}
  if losses is not None:
    result['loss'] = float(np.mean(losses, dtype=np.float64))
  result['accuracy'] = float(np.mean(predicted == labels))
  for k in top_k:
    if classes > k:
      best = np.argsort(p, axis=1, kind='stable')[:, -k:]
      result[f'top_{k}_accuracy'] = float(
          np.mean((best == labels[:, None]).any(axis=1)))
  matrix = confusion(labels, predicted, classes)
  support = matrix.sum(axis=1)
  result['balanced_accuracy'] = float(
      np.mean(matrix.diagonal()[support > 0] / support[support > 0]))
  result |= _averaged(matrix)
  truth = p[np.arange(n), labels]
  result['log_loss'] = float(
      -np.log(np.clip(truth, _EPSILON, 1 - _EPSILON)).mean())
  chance = support @ matrix.sum(axis=0) / n**2
  result['cohen_kappa'] = _rate(result['accuracy'] - chance, 1 - chance)
  result.update(scores.ranking(labels, p))
  result['expected_calibration_error'] = (
      scores.expected_calibration_error(labels, p))
  return result


def _averaged(matrix: np.ndarray) -> dict[str, float]:
  """Returns macro and weighted precision, recall and F1 of a confusion."""
  hits, truth, guesses = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
  used = truth + guesses > 0
  each = {'precision': hits / np.maximum(guesses, 1),
          'recall': hits / np.maximum(truth, 1),
          'f1': 2 * hits / np.maximum(truth + guesses, 1)}
  weights = {'macro': used, 'weighted': truth}
  return {f'{average}_{name}': float(np.average(values, weights=weight))
          for average, weight in weights.items()
          for name, values in each.items()}


def confusion(
    labels: np.ndarray, predicted: np.ndarray, num_classes: int
) -> np.ndarray:
  """Counts int64 [classes, classes]: row = true class, column = predicted.

  Raises:
    ValueError: a label or prediction lies outside [0, num_classes).
  """
  labels, predicted = np.asarray(labels), np.asarray(predicted)
  for name, values in (('labels', labels), ('predicted', predicted)):
    if values.size and not 0 <= values.min() <= values.max() < num_classes:
      raise ValueError(
          f'{name} reach from {values.min()} to {values.max()}, but there are '
          f'{num_classes} classes, numbered from 0')
  matrix = np.zeros((num_classes, num_classes), np.int64)
  np.add.at(matrix, (labels, predicted), 1)
  return matrix


def from_confusion(matrix: np.ndarray) -> dict[str, float]:
  """Returns balanced accuracy and macro F1 over the classes that occur.

  The same numbers as `classification` gives, fast enough for a bootstrap.

  Args:
    matrix: int [classes, classes] of `confusion`.
  """
  hits, truth, guesses = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
  seen = truth > 0
  used = seen | (guesses > 0)
  return {
      'balanced_accuracy': float((hits[seen] / truth[seen]).mean()),
      'macro_f1': float((2 * hits[used] / (truth + guesses)[used]).mean()),
  }


def per_class(
    labels: np.ndarray, predicted: np.ndarray, class_names: list[str]
) -> list[dict[str, Any]]:
  """Returns one row per class: counts, recall, precision and F1.

  Recall and precision come with 95 % Wilson bounds; a rate of nothing (no
  example, no prediction) is nan, with the bounds 0 and 1.
  """
  matrix = confusion(labels, predicted, len(class_names))
  rows = []
  for i, name in enumerate(class_names):
    correct = int(matrix[i, i])
    n, n_predicted = int(matrix[i].sum()), int(matrix[:, i].sum())
    recall_low, recall_high = stats.wilson(correct, n)
    precision_low, precision_high = stats.wilson(correct, n_predicted)
    rows.append({
        'class': name, 'n': n, 'correct': correct,
        'recall': _rate(correct, n),
        'recall_low': recall_low, 'recall_high': recall_high,
        'n_predicted': n_predicted,
        'precision': _rate(correct, n_predicted),
        'precision_low': precision_low, 'precision_high': precision_high,
        'f1': _rate(2 * correct, n + n_predicted),
    })
  return rows


def permutation_guard(
    labels: np.ndarray,
    predicted: np.ndarray,
    validation: np.ndarray,
) -> float:
  """Raises when test predictions look shuffled against the test labels.

  That is: their agreement lies at most 3 standard deviations above that of a
  random pairing (`stats.permuted_agreement`), although validation is far above
  chance. Far means that with validation's recalls the test set would lie at
  least 6 above, and that the 95 % Wilson interval of that accuracy excludes the
  largest class's share. So a small test set never raises for lack of evidence,
  nor one whose classes have other shares than validation's.

  Args:
    labels: int [n], of the test set.
    predicted: int [n].
    validation: int [classes, classes], the confusion matrix of the same weights
      on validation, row = true class. A class that it lacks promises nothing.

  Returns:
    Standard deviations of the agreement above chance; nan where every pairing
    agrees equally often (a single class in labels or predictions).

  Raises:
    MisalignedEvaluation: as above.
  """
  matrix = confusion(labels, predicted, len(validation))
  n, agreements = int(matrix.sum()), int(matrix.trace())
  mean, deviation = stats.permuted_agreement(matrix)
  recalls = np.diag(validation) / np.maximum(validation.sum(axis=1), 1)
  promised = float(recalls @ matrix.sum(axis=1))
  low, _ = stats.wilson(round(promised), n)
  if (agreements - mean <= 3 * deviation
      and promised - mean >= 6 * deviation
      and low > matrix.sum(axis=1).max() / n):
    raise MisalignedEvaluation(
        f'{agreements} of {n} test predictions are right; shuffling them gives '
        f'{mean:.1f} with a standard deviation of {deviation:.1f}, but by the '
        f'recalls of validation {promised:.1f} would be. Predictions and '
        'labels are probably in different order (pair them by id), or the test '
        'images are prepared unlike the validation images.')
  return _rate(agreements - mean, deviation)


def _rate(k: float, n: float) -> float:
  return k / n if n else float('nan')
