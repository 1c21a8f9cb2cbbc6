"""Semi-supervised classification: FixMatch, pseudo-labels, mean teacher.

A batch is made of groups, each with its labelled examples first, as the
sampler 'mixed:<labelled>:<unlabelled>' lays them out. The task makes its own
views of both kinds, from the step's key: config.semi.weak for labelled examples
and teacher, config.semi.strong for FixMatch's student. Labels of unlabelled
examples are withheld before they get here (data/joined.py). Evaluation is
classification's.
"""

from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from vision_jax import classifiers
from vision_jax import config as config_lib
from vision_jax import losses
from vision_jax import metrics
from vision_jax import objectives
from vision_jax import optim
from vision_jax import task as task_lib
from vision_jax import unlabelled_losses
from vision_jax.data import augment
from vision_jax.data import joined
from vision_jax.data import samplers
from vision_jax.models import layers
from vision_jax.tasks import classification


class Method(NamedTuple):
  """What the student learns from an unlabelled image.

  Attributes:
    view: The student's view: strong; weak, but another than the teacher's; or
      same, the teacher's own.
    loss: (logits, teacher's logits, threshold) -> losses [B].
  """
  view: str
  loss: Callable[..., jax.Array]


METHODS = {
    'fixmatch': Method('strong', unlabelled_losses.pseudo_label),
    'pseudo_label': Method('same', unlabelled_losses.pseudo_label),
    'mean_teacher': Method(
        'weak', lambda logits, teacher, threshold: (
            unlabelled_losses.consistency(logits, teacher))),
    # The labelled rows of the same batches, and nothing else.
    'supervised': None,
}


def make(
    config: ml_collections.ConfigDict, info: task_lib.Info) -> task_lib.Task:
  """Returns the semi-supervised task of a whole config.

  The objective is that of config.loss on the labelled rows plus
  config.semi.weight times the mean of the method's loss on the unlabelled
  ones. The teacher predicts in evaluation mode, without a gradient, with the
  student's weights or with their moving average (config.semi.teacher).

  Raises:
    ConfigError: If a field is wrong or contradicts another.
    DataError: If a strength of a view is wrong.
  """
  _check(config)
  for policy in ('weak', 'strong'):
    augment.check(config.semi[policy], info.input_shape[-1],
                  field=f'config.semi.{policy}')
  semi, method = config.semi, METHODS[config.semi.method]
  sizes = samplers.mixed_sizes(config.train.sampler)
  groups = config.train.batch_size // sum(sizes)
  base = classification.make(config, info)
  model, prepare, stages, _ = classifiers.make(
      config.model, len(info.class_names))
  pattern = classifiers.frozen_pattern(config.model, stages)
  rests = classifiers.resting_pattern(config.model, pattern, base.trainable)
  optimizer = optim.make_optimizer(
      config.optimizer, trainable=base.trainable, epochs=config.train.epochs,
      steps_per_epoch=info.steps_per_epoch, stages=stages)
  objective = objectives.make(config, info)
  ramp_steps = semi.ramp_epochs * info.steps_per_epoch
  sums = metrics.averages('loss', 'accuracy', 'unlabelled_loss', 'confident')

  def apply(variables, images, **options):
    with layers.resting(rests):
      return model.apply(variables, prepare(images), **options)

  def teach(state, images):
    params = state.ema if semi.teacher == 'ema' else state.params
    logits = apply({'params': params, 'batch_stats': state.batch_stats},
                   images, train=False)
    return jax.lax.stop_gradient(logits)

  def train_step(state, batch, key):
    views_key, dropout_key = jax.random.split(key)
    labelled, unlabelled = split(batch, sizes)
    weak, teacher_view, student_view = make_views(
        semi, labelled, unlabelled, views_key)
    # A method without a student's view trains on the labelled rows alone.
    images, teacher = weak, None
    if method:
      images = jnp.concatenate([weak, student_view])
      teacher = teach(state, teacher_view)

    def loss_of(params):
      params = optim.stop_frozen(params, base.trainable)
      logits, updated = apply(
          {'params': params, 'batch_stats': state.batch_stats}, images,
          train=True, rngs={'dropout': dropout_key}, mutable=['batch_stats'])
      own, others = logits[:len(weak)], logits[len(weak):]
      total, each = objective(own, labelled, state.step)
      if config.loss.l2:
        total += config.loss.l2 * losses.kernel_squares(params, base.trainable)
      right = (own.argmax(-1) == labelled['label']).astype(jnp.float32)
      apart = sure = jnp.zeros(len(unlabelled['mask']))
      if method:
        apart = method.loss(others, teacher, threshold=semi.threshold)
        _, sure = unlabelled_losses.confident(
            teacher, threshold=semi.threshold)
        total += semi.weight * unlabelled_losses.ramp_up(
            state.step, ramp_steps) * losses.masked_mean(
                apart, unlabelled['mask'])
      return total, ({'loss': each, 'accuracy': right,
                      'unlabelled_loss': apart, 'confident': sure}, updated)

    grads, (outputs, updated) = jax.grad(loss_of, has_aux=True)(state.params)
    state = task_lib.apply_gradients(
        state, grads, optimizer, trainable=base.trainable,
        batch_stats={**state.batch_stats, **updated.get('batch_stats', {})},
        ema_decay=config.optimizer.ema_decay)
    # Padding fills whole groups, so a group counts as one.
    by_group = lambda rows: rows.reshape(groups, -1).mean(-1)
    return state, sums.single_from_model_output(
        mask=by_group(batch['mask']),
        **{name: by_group(rows) for name, rows in outputs.items()})

  def summarize(outputs):
    if (outputs['label'] == joined.WITHHELD).any():
      raise config_lib.ConfigError(
          f'The labels of this split are withheld by config.train.split='
          f'{joined.SPLIT!r}: evaluate on another split.')
    return base.summarize(outputs)

  return base._replace(train_step=train_step, train_sums=sums, encode=None,
                       summarize=summarize)


def split(
    batch: task_lib.Batch, sizes: tuple[int, int],
) -> tuple[task_lib.Batch, task_lib.Batch]:
  """Returns the labelled and the unlabelled rows of a batch of groups.

  Args:
    batch: Any batch; the unlabelled rows come back without `label`.
    sizes: Labelled and unlabelled rows of a group.
  """
  def take(rows, part):
    grouped = rows.reshape(-1, sum(sizes), *rows.shape[1:])[:, part]
    return grouped.reshape(-1, *rows.shape[1:])
  first, rest = slice(sizes[0]), slice(sizes[0], None)
  return ({name: take(rows, first) for name, rows in batch.items()},
          {name: take(rows, rest) for name, rows in batch.items()
           if name != 'label'})


def make_views(
    semi: ml_collections.ConfigDict,
    labelled: task_lib.Batch,
    unlabelled: task_lib.Batch,
    key: task_lib.Key,
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
  """Returns the views of the labelled rows, of the teacher, of the student.

  Each is made from the images themselves, with a key of its own; teacher and
  student see nothing where the method is 'supervised'.
  """
  keys = jax.random.split(key, 3)
  view = lambda policy, rows, key: augment.apply(
      policy, rows['image'], rows['id'], key)
  weak = view(semi.weak, labelled, keys[0])
  method = METHODS[semi.method]
  if method is None:
    return weak, None, None
  teacher = view(semi.weak, unlabelled, keys[1])
  if method.view == 'same':
    return weak, teacher, teacher
  policy = semi.strong if method.view == 'strong' else semi.weak
  return weak, teacher, view(policy, unlabelled, keys[2])


def _check(config) -> None:
  """Raises ConfigError where fields contradict each other."""
  semi, train = config.semi, config.train
  config_lib.refuse_ignored(config, ('taxonomy.',), 'semi_supervised')
  config_lib.choose('semi.method', semi.method, METHODS)
  config_lib.choose('semi.teacher', semi.teacher, {'student': 0, 'ema': 0})
  if semi.teacher == 'ema' and not config.optimizer.ema_decay:
    raise config_lib.ConfigError(
        "config.semi.teacher='ema' needs config.optimizer.ema_decay.")
  if semi.method == 'mean_teacher' and semi.teacher != 'ema':
    raise config_lib.ConfigError(
        "config.semi.method='mean_teacher' needs config.semi.teacher='ema'.")
  sizes = samplers.mixed_sizes(train.sampler)
  if train.batch_size % sum(sizes):
    raise config_lib.ConfigError(
        f'config.train.batch_size={train.batch_size} is no multiple of '
        f'{sum(sizes)}, the group of config.train.sampler={train.sampler!r}.')
  used = [f'augment.{name}' for name, value in config.augment.items() if value]
  used += [f'semi.{policy}.{name}' for policy in ('weak', 'strong')
           for name in ('views', 'mixup_alpha', 'cutmix_alpha', 'remix_kappa')
           if semi[policy][name]]
  if used:
    raise config_lib.ConfigError(
        f'config.{used[0]} has no use here: set it to 0. The views are '
        'config.semi.weak and config.semi.strong, one image at a time.')
