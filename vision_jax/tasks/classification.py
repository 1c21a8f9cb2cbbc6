"""Classification: an encoder, possibly frozen and pretrained, and a head."""

import functools
from typing import Callable

import jax
import jax.numpy as jnp
import ml_collections

from vision_jax import classifiers
from vision_jax import fusion
from vision_jax import losses
from vision_jax import metrics
from vision_jax import objectives
from vision_jax import optim
from vision_jax import runtime
from vision_jax import task as task_lib
from vision_jax.analysis import reports
from vision_jax.data import taxonomy
from vision_jax.models import layers


def make(
    config: ml_collections.ConfigDict,
    info: task_lib.Info,
    *,
    preprocess: Callable[[jax.Array], jax.Array] | None = None,
) -> task_lib.Task:
  """Returns the classification task of a whole config.

  Its per-example outputs are `label`, `loss` (cross-entropy, nats) and
  `probabilities` [B, classes].

  Args:
    config: The config.
    info: Of the data.
    preprocess: Takes the place of the network's own preparation of images,
      which only a mistake does.

  Raises:
    ConfigError: If the encoder's weights do not fit, or a field is wrong.
  """
  names = info.class_names
  parents = _parents(config, names)
  model, prepare, stages, load = classifiers.make(
      config.model, len(names), parents=parents)
  prepare = preprocess or prepare
  inputs_of = _further_inputs(config, names)
  def random_variables(key):
    blank = {'image': jnp.zeros((1, *info.input_shape)), 'label': jnp.zeros(1)}
    return model.init(
        key, blank['image'], train=False, **inputs_of(blank, None))
  shapes = jax.eval_shape(random_variables, jax.random.key(0))
  pattern = classifiers.frozen_pattern(config.model, stages)
  trainable = optim.trainable_mask(shapes['params'], pattern)
  optimizer = optim.make_optimizer(
      config.optimizer, trainable=trainable, epochs=config.train.epochs,
      steps_per_epoch=info.steps_per_epoch, stages=stages)
  rests = classifiers.resting_pattern(config.model, pattern, trainable)
  cacheable = rests and not any(jax.tree.leaves(trainable['encoder']))
  sums = metrics.averages('loss', 'accuracy')
  objective = objectives.make(config, info)

  def start(variables):
    return task_lib.create_state(
        variables, optimizer, keep_ema=config.optimizer.ema_decay > 0,
        keep_best=config.callbacks.restore_best)

  def init(key):
    if not config.model.weights:
      return start(runtime.once(random_variables, key))
    # The encoder's weights are loaded; to draw them first would only take
    # long to compile.
    drawn = runtime.once(
        lambda key: _without_encoder(random_variables(key)), key)
    return start(load({
        name: {**tree, **drawn[name]} for name, tree in shapes.items()}))

  def logits_of(variables, batch, *, train, key=None, **options):
    options |= inputs_of(batch, key)
    if train:
      options['rngs'] = {'dropout': key}
    with layers.resting(rests):
      if 'features' in batch:
        return model.apply(variables, batch['features'], train=train,
                           method='classify', **options)
      return model.apply(
          variables, prepare(batch['image']), train=train, **options)

  def train_step(state, batch, key):
    moves = optim.among(trainable, state.params)
    def loss_of(params):
      params = optim.stop_frozen(params, moves)
      logits, updated = logits_of(
          {'params': params, 'batch_stats': state.batch_stats}, batch,
          train=True, key=key, mutable=['batch_stats'])
      total, each = objective(logits, batch, state.step)
      if config.loss.l2:
        total += config.loss.l2 * losses.kernel_squares(params, moves)
      right = (logits.argmax(-1) == batch['label']).astype(jnp.float32)
      return total, ({'loss': each, 'accuracy': right}, updated)
    grads, (outputs, updated) = jax.grad(loss_of, has_aux=True)(state.params)
    state = task_lib.apply_gradients(
        state, grads, optimizer, trainable=moves,
        batch_stats={**state.batch_stats, **updated.get('batch_stats', {})},
        ema_decay=config.optimizer.ema_decay)
    return state, sums.single_from_model_output(mask=batch['mask'], **outputs)

  def eval_step(state, batch):
    logits = logits_of(state.variables(), batch, train=False)
    return {
        'label': batch['label'],
        'loss': losses.cross_entropy(logits, batch['label']),
        'probabilities': jax.nn.softmax(logits),
    }

  def encode(state, batch):
    return model.apply(
        state.variables(), prepare(batch['image']), train=False,
        method='encode')

  def embed(state, batch):
    headless = classifiers.make(config.model, 0).module
    return headless.apply(
        state.variables(), prepare(batch['image']), train=False,
        **inputs_of(batch, None))

  def summarize(outputs):
    return metrics.classification(
        outputs['label'], outputs['probabilities'], losses=outputs['loss'])

  def table(outputs):
    probabilities = outputs['probabilities']
    return {
        'predicted': [names[i] for i in probabilities.argmax(-1)],
        **dict(zip(names, probabilities.T.tolist(), strict=True))}

  return task_lib.Task(
      init=init, train_step=train_step, train_sums=sums, eval_step=eval_step,
      summarize=summarize, trainable=trainable,
      start=start, encode=encode if cacheable else None,
      embed=None if parents else embed, table=table,
      report=functools.partial(
          reports.classification, class_names=names, table=table,
          with_figures=config.report.figures, with_guard=config.report.guard))


def _without_encoder(variables):
  return {name: {module: tree[module] for module in tree if module != 'encoder'}
          for name, tree in variables.items()}


def _parents(config, names) -> tuple[int, ...]:
  """Returns the parent of each class for a hierarchical head, else ()."""
  if not config.taxonomy.hierarchical:
    return ()
  return tuple(taxonomy.parents(names)[1].tolist())


def _further_inputs(config, names):
  """Returns (batch, key) -> what the head takes besides the image."""
  if not config.taxonomy.fusion:
    return lambda batch, key: {}
  context_of = fusion.make(names, hidden=config.taxonomy.fusion_hidden)
  return lambda batch, key: {'context': context_of(
      batch, None if key is None else jax.random.fold_in(key, 1))}
