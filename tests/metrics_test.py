"""Whole-set numbers against scikit-learn, formulas and brute force."""

import warnings

from clu import metrics as clu_metrics
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from vision_jax import metrics


def _predictions(seed=0, n=200, classes=7, dtype=np.float64):
  generator = np.random.default_rng(seed)
  labels = generator.integers(classes, size=n)
  logits = generator.normal(size=(n, classes)).astype(dtype)
  logits[np.arange(n), labels] += 1.0
  p = np.exp(logits)
  return labels, p / p.sum(axis=1, keepdims=True)


def _reference(labels, p):
  """The same numbers, straight from scikit-learn."""
  predicted, classes = p.argmax(axis=1), range(p.shape[1])
  result = {
      'accuracy': sklearn_metrics.accuracy_score(labels, predicted),
      'balanced_accuracy': sklearn_metrics.balanced_accuracy_score(
          labels, predicted),
      'top_5_accuracy': sklearn_metrics.top_k_accuracy_score(
          labels, p, k=5, labels=list(classes)),
      'log_loss': sklearn_metrics.log_loss(labels, p, labels=list(classes)),
      'cohen_kappa': sklearn_metrics.cohen_kappa_score(labels, predicted),
      'auc_macro_ovr': sklearn_metrics.roc_auc_score(
          labels, p, multi_class='ovr'),
      'auc_micro': sklearn_metrics.roc_auc_score(
          np.eye(p.shape[1])[labels], p, average='micro'),
      'average_precision_macro': sklearn_metrics.average_precision_score(
          np.eye(p.shape[1])[labels], p, average='macro'),
  }
  for average in ('macro', 'weighted'):
    for name in ('precision', 'recall', 'f1'):
      score = getattr(sklearn_metrics, f'{name}_score')
      result[f'{average}_{name}'] = score(
          labels, predicted, average=average, zero_division=0)
  return result


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_classification_equals_scikit_learn(dtype):
  labels, p = _predictions(dtype=dtype)
  with warnings.catch_warnings():
    # It finds that float32 rows do not add up to one in float64.
    warnings.simplefilter('ignore', UserWarning)
    expected = _reference(labels, p.astype(np.float64))
  result = metrics.classification(labels, p)
  assert {key: result[key] for key in expected} == pytest.approx(
      expected, abs=1e-12)


def test_auc_counts_ordered_pairs():
  labels, p = _predictions(n=60, classes=3)
  p = np.round(p, 1) + 1e-9  # Ties.
  p /= p.sum(axis=1, keepdims=True)
  aucs = []
  for k in range(3):
    positive, negative = p[labels == k, k], p[labels != k, k]
    difference = positive[:, None] - negative[None]
    aucs.append(np.mean((difference > 0) + 0.5 * (difference == 0)))
  assert metrics.classification(labels, p)['auc_macro_ovr'] == pytest.approx(
      np.mean(aucs), abs=1e-12)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    seed=st.integers(0, 10**6), n=st.integers(8, 60),
    batch_size=st.integers(1, 70))
def test_batch_size_and_order_never_change_a_metric(seed, n, batch_size):
  labels, p = _predictions(seed, n, classes=6, dtype=np.float32)
  order = np.random.default_rng(seed).permutation(n)
  collector = metrics.make_collector(('label', 'probabilities'))
  collected = collector.empty()
  for start in range(0, n, batch_size):
    rows = order[start:start + batch_size]
    real = np.arange(batch_size) < len(rows)
    rows = np.resize(rows, batch_size)
    collected = collected.merge(collector.from_model_output(
        id=rows, label=labels[rows], probabilities=p[rows],
        mask=real.astype(np.float32)))
  arrays = metrics.examples(collected)
  metrics.check_complete(arrays['id'], np.arange(n))
  result = metrics.classification(arrays['label'], arrays['probabilities'])
  expected = metrics.classification(labels, p)
  np.testing.assert_equal(result, expected)
  shuffled = metrics.classification(labels[order], p[order])
  assert shuffled == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_examples_refuses_what_is_not_seen_once():
  collector = metrics.make_collector(())
  repeated = collector.from_model_output(
      id=np.array([3, 1, 3]), mask=np.array([1.0, 1.0, 1.0]))
  with pytest.raises(ValueError, match=r'1 repeated, such as \[3\]'):
    metrics.examples(repeated)
  with pytest.raises(ValueError, match=r'missing, such as \[0, 2\]'):
    metrics.check_complete(np.array([1, 3]), np.arange(4))
  with pytest.raises(ValueError, match=r'1 unexpected, such as \[7\]'):
    metrics.check_complete(np.array([0, 7]), np.arange(1))
  with pytest.raises(ValueError, match='empty'):
    metrics.examples(collector.empty())


def test_classes_missing_from_the_labels():
  labels, p = _predictions(n=40, classes=4)
  labels[labels == 3] = 0
  result = metrics.classification(labels, p)
  one_hot = np.eye(4)[labels]
  assert result['classes_present'] == 3
  assert result['auc_macro_ovr'] == pytest.approx(np.mean([
      sklearn_metrics.roc_auc_score(one_hot[:, k], p[:, k])
      for k in range(3)]), abs=1e-12)
  recalls = [np.mean(p.argmax(axis=1)[labels == k] == k) for k in range(3)]
  assert result['balanced_accuracy'] == pytest.approx(np.mean(recalls))
  assert 'top_5_accuracy' not in result


def test_a_single_class_is_nan_not_an_error():
  p = np.tile([[0.9, 0.1]], (5, 1))
  result = metrics.classification(np.zeros(5, int), p)
  assert result['accuracy'] == 1.0
  for name in ('auc_macro_ovr', 'average_precision_macro', 'cohen_kappa'):
    assert np.isnan(result[name])


@pytest.mark.parametrize('p', [
    np.array([[0.5, 0.4]]), np.array([[np.nan, 1.0]]), np.array([[2.0, -1.0]])])
def test_classification_refuses_what_are_no_probabilities(p):
  with pytest.raises(ValueError, match='softmax'):
    metrics.classification(np.array([0]), p)


def test_classification_refuses_a_label_out_of_range():
  _, p = _predictions(n=3, classes=2)
  with pytest.raises(ValueError, match='2 classes, numbered from 0'):
    metrics.classification(np.array([0, 1, 2]), p)


def test_losses_are_averaged_over_examples():
  labels, p = _predictions(n=3)
  losses = np.array([1.0, 2.0, 6.0], np.float32)
  assert metrics.classification(labels, p, losses=losses)['loss'] == 3.0


def test_training_averages_merge_in_jit_and_ignore_padding():
  collection = metrics.averages('loss', 'accuracy')
  assert metrics.averages('loss', 'accuracy') is collection

  @jax.jit
  def add(sums, loss, mask):
    return sums.merge(collection.single_from_model_output(
        loss=loss, accuracy=(loss > 1).astype(jnp.float32), mask=mask))

  empty = collection.empty()
  sums = add(empty, jnp.array([1.0, 2.0]), jnp.ones(2))
  sums = add(sums, jnp.array([6.0, jnp.nan]), jnp.array([1.0, 0.0]))
  assert jax.tree.structure(sums) == jax.tree.structure(empty)
  assert [x.dtype for x in jax.tree.leaves(sums)] == [
      x.dtype for x in jax.tree.leaves(empty)]
  assert {k: float(v) for k, v in sums.compute().items()} == pytest.approx(
      {'loss': 3.0, 'accuracy': 2 / 3})


def test_training_averages_refuse_a_batch_mean():
  assert issubclass(metrics.averages('loss'), clu_metrics.Collection)
  with pytest.raises(ValueError, match='one value per example'):
    metrics.averages('loss').single_from_model_output(
        loss=jnp.array(0.5), mask=jnp.ones(4))


def test_per_class_and_confusion():
  labels = np.array([0] * 5 + [1] * 3)
  predicted = np.array([0, 0, 0, 1, 1, 1, 1, 0])
  np.testing.assert_array_equal(
      metrics.confusion(labels, predicted, 3),
      sklearn_metrics.confusion_matrix(labels, predicted, labels=range(3)))
  first, second, absent = metrics.per_class(labels, predicted, ['a', 'b', 'c'])
  assert (first['n'], first['correct'], first['recall']) == (5, 3, 0.6)
  # 3 of 5: the interval that the imbalance study's table lacks.
  assert first['recall_low'] == pytest.approx(0.23, abs=5e-3)
  assert first['recall_high'] == pytest.approx(0.88, abs=5e-3)
  assert (second['n_predicted'], second['precision']) == (4, 0.5)
  assert second['f1'] == pytest.approx(4 / 7)
  assert np.isnan(absent['recall']) and absent['recall_high'] == 1.0


def _published_characters():
  """Study 1, model 1: 315/364/330 examples, diagonal 65/144/130."""
  # Rows, diagonal and 145 as printed, the rest from the printed precisions.
  matrix = np.array([[65, 125, 125], [75, 144, 145], [72, 128, 130]])
  pairs = [(i, j) for i in range(3) for j in range(3)
           for _ in range(matrix[i, j])]
  return np.array(pairs).T


def _validation(accuracy, classes=3, n=1000):
  """A confusion matrix with this recall in every class."""
  right = np.eye(classes) * accuracy
  wrong = (1 - np.eye(classes)) * (1 - accuracy) / (classes - 1)
  return np.int64(np.round(n * (right + wrong)))


def test_guard_finds_the_shuffled_predictions_of_study_1():
  labels, predicted = _published_characters()
  assert (len(labels), np.sum(labels == predicted)) == (1009, 339)
  with pytest.raises(metrics.MisalignedEvaluation, match='339 of 1009') as e:
    metrics.permutation_guard(labels, predicted, _validation(0.836))
  assert 'pair them by id' in str(e.value)


def test_guard_accepts_what_is_no_contradiction():
  labels, predicted = _published_characters()
  # Validation at chance as well: a bad model, not a misaligned one.
  assert abs(metrics.permutation_guard(
      labels, predicted, _validation(0.36))) < 3
  # 855 of 1009 right, as in the study's Figure 6.
  good = np.where(np.arange(1009) % 100 < 85, labels, predicted)
  assert metrics.permutation_guard(labels, good, _validation(0.84)) > 20
  # Too few examples to tell.
  metrics.permutation_guard(
      np.arange(3), np.array([1, 2, 0]), _validation(1.0))
  # A single class in the test set: every pairing agrees equally often.
  assert np.isnan(metrics.permutation_guard(
      np.zeros(50, int), np.arange(50) // 45, _validation(0.95, 2)))


def test_guard_accepts_a_network_that_knows_the_largest_class_alone():
  # Validation has shares of 15:1, the test set ten of each class; nearly all is
  # taken for class 0, which validation's accuracy of .6 hides.
  validation = np.zeros((10, 10), int)
  validation[:, 0] = [60, *[4] * 9]
  labels = np.repeat(np.arange(10), 10)
  predicted = np.where(np.arange(100) % 9 == 4, 1, 0)
  metrics.permutation_guard(labels, predicted, validation)
  # With that accuracy in every class it is a contradiction.
  with pytest.raises(metrics.MisalignedEvaluation, match='validation 60.2'):
    metrics.permutation_guard(labels, predicted, _validation(0.6, 10))
