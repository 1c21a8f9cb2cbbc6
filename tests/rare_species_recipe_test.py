"""Parts of study 4's recipe: preprocessing, L2, weights, log, validation."""

import csv
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.utils import class_weight

import run_helpers
from vision_jax import config as config_lib
from vision_jax import imbalance_losses
from vision_jax import keras_log
from vision_jax import losses
from vision_jax import published
from vision_jax import task as task_lib
from vision_jax import writers
from vision_jax.data import splits
from vision_jax.tasks import classification

INFO = task_lib.Info(('a', 'b'), (32, 32, 3), 4)


def make_images():
  """Two fixed images."""
  return jnp.asarray(
      np.random.default_rng(0).uniform(size=(2, 32, 32, 3)), jnp.float32)


def test_foreign_preprocessing_is_another_backbones():
  make = published.foreign_preprocessing(
      lambda config, info, *, preprocess: preprocess)
  prepared = lambda **fields: make(
      run_helpers.make_config(**fields), INFO)(make_images())
  # MobileNetV2 takes [-1, 1]; VGG16 takes blue first, less ImageNet's mean.
  np.testing.assert_allclose(
      prepared(), 2 * make_images() - 1, rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(
      prepared(published__preprocess_of='vgg16')[..., 0],
      255 * make_images()[..., 2] - 103.939, rtol=1e-5, atol=1e-4)
  with pytest.raises(config_lib.ConfigError, match='preprocess_of'):
    prepared(published__preprocess_of='mobilenet')


def test_the_network_sees_what_was_prepared_for_another():
  config = run_helpers.make_config(
      model__name='cnn', model__head=('flatten', 'dense:4'))
  task = classification.make(config, INFO, preprocess=jnp.zeros_like)
  p = jax.jit(lambda batch: task.eval_step(
      task.init(jax.random.key(0)), batch)['probabilities'])({
          'image': make_images(), 'label': jnp.array([0, 1])})
  np.testing.assert_array_equal(p[0], p[1])


def test_l2_is_the_sum_of_squares_of_kernels_that_move():
  params = {'a': {'kernel': jnp.array([[1.0, 2.0]]), 'bias': jnp.ones(2)},
            'b': {'kernel': jnp.array([[3.0]])}}
  trainable = {'a': {'kernel': True, 'bias': True}, 'b': {'kernel': False}}
  assert losses.kernel_squares(params, trainable) == 5.0


def test_class_weights_are_scikit_learns_balanced_ones():
  labels = np.repeat([0, 1, 2, 3], [40, 3, 17, 1])
  np.testing.assert_allclose(
      imbalance_losses.inverse_weights(np.bincount(labels)),
      class_weight.compute_class_weight(
          'balanced', classes=np.arange(4), y=labels))


def test_the_log_has_keras_columns_and_the_rate_of_its_own_epoch(tmp_path):
  history = [{
      'epoch': e, 'step': 9 * e, 'train_loss': 1.0, 'train_accuracy': 0.5,
      'validation_loss': 2.0, 'validation_accuracy': 0.25,
      'validation_macro_f1': 0.1, 'validation_auc_micro_keras': 0.75,
      'rate_scale': scale} for e, scale in ((1, 1.0), (2, 0.5), (3, 0.5))]
  rows = keras_log.rows(history, learning_rate=4e-3)
  path = tmp_path / 'log.csv'
  writers.write_csv(path, rows)
  # As keras.callbacks.CSVLogger writes it, epochs counted from 0.
  with path.open() as file:
    assert next(csv.reader(file)) == [
        'epoch', 'accuracy', 'learning_rate', 'loss', 'val_accuracy',
        'val_auc', 'val_loss']
  assert [row['epoch'] for row in rows] == [0, 1, 2]
  # The plateau acts between the second epoch and the third.
  assert [row['learning_rate'] for row in rows] == [4e-3, 4e-3, 2e-3]


@pytest.mark.parametrize('n, classes, fraction', [
    (101, 3, 0.2), (40, 8, 0.15), (10_784, 202, 0.2)])
def test_a_total_of_validation_is_rounded_once_and_stratified(
    n, classes, fraction):
  labels = np.arange(n) % classes
  order = splits.order(labels, np.arange(n), seed=0)
  held_out = splits._hold_out_total(
      labels[order], np.arange(n)[order], fraction=fraction)
  assert held_out.sum() == math.ceil(fraction * n - 1e-9)
  counts = np.bincount(labels[order][held_out], minlength=classes)
  assert np.ptp(counts) <= 2
