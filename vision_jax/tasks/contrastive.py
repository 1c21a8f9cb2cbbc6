"""Contrastive pre-training: an encoder that knows two views of an image.

SimCLR (Chen et al., 2020, arXiv:2002.05709): the head of config.model is the
projection, dropped afterwards; a classifier takes the encoder through
config.model.weights. Labels are never read, but to count them.
"""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from vision_jax import classifiers
from vision_jax import config as config_lib
from vision_jax import losses
from vision_jax import metrics
from vision_jax import optim
from vision_jax import stats
from vision_jax import runtime
from vision_jax import task as task_lib
from vision_jax import unlabelled_losses
from vision_jax import writers
from vision_jax.analysis import reports
from vision_jax.data import augment
from vision_jax.models import layers

# Rows of the similarity matrix that are made at a time.
_CHUNK = 512


def make(
    config: ml_collections.ConfigDict, info: task_lib.Info) -> task_lib.Task:
  """Returns the contrastive task of a whole config.

  Its per-example outputs are `first` and `second`, the embeddings [B, d] of
  two fixed views.

  Raises:
    ConfigError: If a field is wrong or would be ignored.
    DataError: If a strength of the views is wrong.
  """
  node = config.contrastive
  _check(config)
  augment.check(
      node.views, info.input_shape[-1], field='config.contrastive.views')
  model, prepare, stages, load = classifiers.make(config.model, node.dims)
  blank = jnp.zeros((1, *info.input_shape))
  random_variables = lambda key: model.init(key, blank, train=False)
  shapes = jax.eval_shape(random_variables, jax.random.key(0))['params']
  pattern = classifiers.frozen_pattern(config.model, stages)
  trainable = optim.trainable_mask(shapes, pattern)
  rests = classifiers.resting_pattern(config.model, pattern, trainable)
  optimizer = optim.make_optimizer(
      config.optimizer, trainable=trainable, epochs=config.train.epochs,
      steps_per_epoch=info.steps_per_epoch, stages=stages)
  sums = metrics.averages('loss')

  def init(key):
    return task_lib.create_state(
        load(runtime.once(random_variables, key)), optimizer,
        keep_ema=config.optimizer.ema_decay > 0,
        keep_best=config.callbacks.restore_best)

  def views(batch, *keys):
    images = batch['image']
    # Images of no split, such as a user's own, have no id.
    ids = batch['id'] if 'id' in batch else jnp.arange(len(images))
    return [augment.apply(node.views, images, ids, key) for key in keys]

  def train_step(state, batch, key):
    *view_keys, dropout_key = jax.random.split(key, 3)
    images = jnp.concatenate(views(batch, *view_keys))

    def loss_of(params):
      params = optim.stop_frozen(params, trainable)
      with layers.resting(rests):
        embedded, updated = model.apply(
            {'params': params, 'batch_stats': state.batch_stats},
            prepare(images), train=True, rngs={'dropout': dropout_key},
            mutable=['batch_stats'])
      each = unlabelled_losses.nt_xent(
          *jnp.split(embedded, 2), batch['mask'],
          temperature=node.temperature)
      return losses.masked_mean(each, batch['mask']), (each, updated)

    grads, (each, updated) = jax.grad(loss_of, has_aux=True)(state.params)
    state = task_lib.apply_gradients(
        state, grads, optimizer, trainable=trainable,
        batch_stats={**state.batch_stats, **updated.get('batch_stats', {})},
        ema_decay=config.optimizer.ema_decay)
    return state, sums.single_from_model_output(mask=batch['mask'], loss=each)

  def eval_step(state, batch):
    # Fixed keys: the same two views of an image, whenever it is evaluated.
    shown = views(batch, jax.random.key(0), jax.random.key(1))
    return {name: model.apply(state.variables(), prepare(images), train=False)
            for name, images in zip(('first', 'second'), shown, strict=True)}

  def summarize(outputs):
    each, found = retrieve(
        outputs['first'], outputs['second'], temperature=node.temperature)
    return {'n': len(found), 'loss': float(each.mean()),
            'retrieval_accuracy': float(found.mean())}

  def table(outputs):
    each, found = retrieve(
        outputs['first'], outputs['second'], temperature=node.temperature)
    return {'loss': each.tolist(), 'found': found.tolist()}

  def report(outcome):
    columns = table(outcome.outputs['test'])
    writers.write_csv(outcome.folder / 'predictions.csv',
                      reports.prediction_rows(outcome, columns))
    found = columns['found']
    return {'intervals': {
        'retrieval_accuracy': list(stats.wilson(sum(found), len(found)))}}

  return task_lib.Task(
      init=init, train_step=train_step, train_sums=sums, eval_step=eval_step,
      summarize=summarize, trainable=trainable, encode=None, table=table,
      report=report)


def retrieve(
    first: np.ndarray, second: np.ndarray, *, temperature: float,
) -> tuple[np.ndarray, np.ndarray]:
  """Looks for the second view of every image among those of a whole split.

  Args:
    first: Embeddings [n, d] of one view.
    second: Of the other, in the same order.
    temperature: Divides the cosine similarity.

  Returns:
    The cross-entropy of the right one in nats, [n], and whether it is the
    most similar, bool [n]. Unlike in training, all n take part.
  """
  unit = lambda x: x / np.maximum(
      np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
  first, second = (unit(np.asarray(x, np.float64)) for x in (first, second))
  each, found = [], []
  for start in range(0, len(first), _CHUNK):
    rows = first[start:start + _CHUNK] @ second.T / temperature
    own = rows[np.arange(len(rows)), start + np.arange(len(rows))]
    top = rows.max(axis=1)
    each.append(
        np.log(np.exp(rows - top[:, None]).sum(axis=1)) + top - own)
    found.append(own >= top)
  return np.concatenate(each), np.concatenate(found)


def _check(config) -> None:
  """Raises ConfigError for a field that would be ignored."""
  config_lib.refuse_ignored(
      config, ('loss.', 'train.label_smoothing', 'taxonomy.'), 'contrastive')
  used = [f'augment.{name}' for name, value in config.augment.items() if value]
  used += [f'contrastive.views.{name}'
           for name in ('views', 'mixup_alpha', 'cutmix_alpha', 'remix_kappa')
           if config.contrastive.views[name]]
  if used:
    raise config_lib.ConfigError(
        f'config.{used[0]} has no use here: set it to 0. Both views are '
        'config.contrastive.views, one image at a time.')
