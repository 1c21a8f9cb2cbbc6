"""The mistakes of the published studies, one function each, off by default.

A config names them in `config.published.switches`. Each takes the function
`make(config, info) -> Task` and returns one that makes the mistake; the sound
code never asks whether one is on. The letters are the rows of the studies'
tables of inconsistencies.
"""

import functools
import inspect
import pathlib

from clu import metrics as clu_metrics
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from vision_jax import adversarial
from vision_jax import callbacks
from vision_jax import config as config_lib
from vision_jax import metrics
from vision_jax import task as task_lib
from vision_jax.models import backbones


def apply(make, config: ml_collections.ConfigDict):
  """Returns `make` with the mistakes that `config.published` names.

  Raises:
    ConfigError: For an unknown name, where it lists those there are, or a
      mistake that this task cannot make.
  """
  keywords = inspect.signature(make).parameters
  chosen = []
  for name in config.published.switches:
    chosen.append(config_lib.choose('published.switches', name, SWITCHES))
    if (name in _KEYWORDS and _KEYWORDS[name] not in keywords) or (
        name == batch_metrics.__name__ and config.task not in _CLASSIFIERS):
      raise config_lib.ConfigError(
          f'config.published.switches: {name!r} is no mistake that '
          f'config.task={config.task!r} can make; leave it out.')
  # In one order, whatever the config's: some wrap what others have made.
  for switch in SWITCHES.values():
    if switch in chosen:
      make = switch(make)
  return make


_CLASSIFIERS = ('classification', 'semi_supervised')
_AVERAGED = ('macro_precision', 'macro_recall', 'macro_f1')


def batch_metrics(make):
  """Metrics of each evaluation batch, averaged (study 0 a).

  Examples come sorted by class, so a batch holds few classes, and what it takes
  for others counts zero. F1 falls to about a third. No interval is reported
  with them: the bootstrap's are those of the whole set's metrics.
  """
  @functools.wraps(make)
  def published(config, info):
    task = make(config, info)
    def summarize(outputs):
      averaged = batch_averages(
          outputs['label'], outputs['probabilities'].argmax(-1),
          batch_size=config.train.batch_size, classes=len(info.class_names))
      return task.summarize(outputs) | averaged
    def report(outcome):
      extra = task.report(outcome)
      return extra | {'intervals': {
          name: ends for name, ends in extra['intervals'].items()
          if name not in _AVERAGED}}
    return task._replace(summarize=summarize, report=report)
  return published


def batch_averages(
    labels: np.ndarray, predicted: np.ndarray, *,
    batch_size: int, classes: int) -> dict[str, float]:
  """Returns macro precision, recall and F1 as a mean over batches.

  As in torchmetrics a batch's average is over the classes that have an example
  or a prediction in it.

  Args:
    labels: int [n], in the order of evaluation.
    predicted: int [n].
    batch_size: Examples a batch; the last may be smaller and weighs the same
      an example, as Lightning weighs it.
    classes: Number of classes.
  """
  totals = np.zeros(3)
  for start in range(0, len(labels), batch_size):
    part = slice(start, start + batch_size)
    matrix = metrics.confusion(labels[part], predicted[part], classes)
    hits = matrix.diagonal().astype(np.float64)
    truth, guesses = matrix.sum(1), matrix.sum(0)
    scores = [
        (hits / np.maximum(below, 1)).sum() / (truth + guesses > 0).sum()
        for below in (guesses, truth, (truth + guesses) / 2)]
    totals += np.array(scores) * len(labels[part])
  return dict(zip(_AVERAGED, (totals / len(labels)).tolist(), strict=True))


def shared_callbacks(make):
  """Early stopping goes on counting where another fit ended (study 0 c).

  The counters come from the run folder `config.published.callbacks_from`,
  as if one stopper object served every fit.
  """
  @functools.wraps(make)
  def published(config, info):
    task = make(config, info)
    # Imported late: results reads finished runs, and they are built from here.
    from vision_jax import results
    folder = config.published.callbacks_from
    if not folder or not results.exists(pathlib.Path(folder)):
      raise config_lib.ConfigError(
          f'config.published.callbacks_from={folder!r} is no finished run, '
          'which shared_callbacks needs.')
    counters = results.read(folder)['callbacks']
    def init(key):
      state = task.init(key)
      # JSON has no infinity, which is where an unused counter starts.
      number = lambda name: np.inf if counters[name] is None else counters[name]
      kept = callbacks.CallbackState(**{
          name: jnp.asarray(number(name), value.dtype)
          for name, value in vars(state.callbacks).items()})
      # The stopper forgets that it fired, and remembers everything else.
      return state.replace(callbacks=kept.replace(
          stopped=jnp.zeros((), bool)))
    return task._replace(init=init)
  return published


def frozen_by_sharing(make):
  """The encoder is frozen whatever the config says (study 0 b).

  The first classifier froze an object that the others shared.
  """
  @functools.wraps(make)
  def published(config, info):
    return make(config_lib.replace(config, model__frozen='^encoder/'), info)
  return published


def last_batch_monitor(make):
  """Adds `train_last_batch_loss`, for a monitor of one mini-batch (study 0 d).

  The epoch's training loss is then the loss of its last batch alone.
  """
  @functools.wraps(make)
  def published(config, info):
    task = make(config, info)
    mean = task.train_sums.empty()
    names = tuple(mean.compute())
    if 'loss' not in names:
      raise config_lib.ConfigError(
          "config.published.switches: 'last_batch_monitor' needs a training "
          f'loss, and config.task={config.task!r} has {", ".join(names)}.')
    sums = clu_metrics.Collection.create(
        **{name: type(getattr(mean, name)) for name in names},
        last_batch_loss=clu_metrics.LastValue.from_output('loss'))
    def train_step(state, batch, key):
      state, update = task.train_step(state, batch, key)
      last = clu_metrics.LastValue.from_model_output(update.compute()['loss'])
      return state, sums(
          _reduction_counter=update._reduction_counter,  # pylint: disable=protected-access
          last_batch_loss=last,
          **{name: getattr(update, name) for name in names})
    return task._replace(train_step=train_step, train_sums=sums)
  return published


def unchecked_range(make):
  """The output may be unable to reach the target (study 0 h).

  A sigmoid is trained on targets in [-1, 1]: set config.model.target to
  'signed'.
  """
  return functools.partial(make, check_range=lambda output, bounds: None)


def misaligned_predictions(make):
  """Test predictions of a shuffled stream against labels in order (study 1 a).

  Accuracy falls to that of a random pairing, whatever the network knows. Set
  config.report.guard to False, or the run refuses to report it.
  """
  @functools.wraps(make)
  def published(config, info):
    task = make(config, info)
    def report(outcome):
      test = outcome.outputs['test']
      order = np.random.default_rng(config.seed).permutation(len(test['id']))
      shuffled = {name: array if name in ('id', 'label') else array[order]
                  for name, array in test.items()}
      metrics_of_test = task.summarize(shuffled)
      extra = task.report(outcome._replace(
          outputs={**outcome.outputs, 'test': shuffled},
          metrics={**outcome.metrics, 'test': metrics_of_test}))
      return {**extra, 'test': metrics_of_test}
    return task._replace(report=report)
  return published


_TRUNCATED_STEPS = 25


def truncated_steps(make):
  """Evaluation ends after 25 batches, whatever the split holds (study 1 g).

  Metrics, intervals and tables are those of the examples seen. But the study
  predicted the whole test set: with `misaligned_predictions` it counts whole.
  """
  @functools.wraps(make)
  def published(config, info):
    task = make(config, info)
    count = _TRUNCATED_STEPS * config.train.batch_size
    def seen(outputs):
      return {name: array[:count] for name, array in outputs.items()}
    def report(outcome):
      if misaligned_predictions.__name__ in config.published.switches:
        return task.report(outcome)
      return task.report(outcome._replace(outputs={
          split: seen(outputs) for split, outputs in outcome.outputs.items()}))
    return task._replace(
        summarize=lambda outputs: task.summarize(seen(outputs)), report=report)
  return published


def overlapping_noise(make):
  """Salt-and-pepper positions are drawn with replacement (study 0 j).

  Pepper covers salt, and a colour image gets three times its share: 10 % and
  10 % are 8.6 % and 9.5 % of a grey 28x28 image, 5 % and 5 % of a colour image
  are 12.0 % and 13.9 %.
  """
  return functools.partial(make, sample_salt_and_pepper=sample_overlapping)


def sample_overlapping(
    key: jax.Array, image: jax.Array, salt: float, pepper: float) -> jax.Array:
  """Returns `image` [H, W, C] with pixels set to 1, then others to 0.

  Args:
    key: jax.random key.
    image: float [H, W, C].
    salt: white positions as a share of the image's values, channels counted.
    pepper: black positions, likewise.
  """
  pixels = image.reshape(-1, image.shape[-1])
  draws = zip(jax.random.split(key), (salt, pepper), (1.0, 0.0), strict=True)
  for draw, rate, value in draws:
    places = jax.random.randint(
        draw, (int(rate * image.size),), 0, len(pixels))
    pixels = pixels.at[places].set(value)
  return pixels.reshape(image.shape)


def clean_evaluation(make):
  """Validation and test show a denoiser the clean image (study 0 i)."""
  @functools.wraps(make)
  def published(config, info):
    task = make(config, info)
    def eval_step(state, batch):
      # An image of no split, such as a user's own, is taken as it is.
      return task.eval_step(
          state, {k: v for k, v in batch.items() if k != 'id'})
    return task._replace(eval_step=eval_step)
  return published


def inference_mode(make):
  """BatchNorm and dropout rest while training (study 3 c).

  The step called both networks without training=True, which Keras takes for
  inference: normalisation by mean 0 and variance 1 for ever.
  """
  return functools.partial(make, train=False)


def labels_above_one(make):
  """Noise lifts the label of generated images above 1 (study 3 e).

  With a target of 1.05 the cross-entropy has no minimum: -.690 at a
  probability of .999999. As in the study, 1 stands for generated.
  """
  return functools.partial(make, objective=adversarial.study_cross_entropy())


def foreign_preprocessing(make):
  """Images are prepared for another backbone (study 4 b).

  The study fed MobileNetV2's [-1, 1] to VGG16 and ResNet50, which expect BGR
  less a mean, to DenseNet121, which expects ImageNet's standardisation, and to
  EfficientNetB0, which scales inside. The backbone whose preparation all get
  is `config.published.preprocess_of`.
  """
  @functools.wraps(make)
  def published(config, info):
    name = config_lib.choose(
        'published.preprocess_of', config.published.preprocess_of,
        {name: name for name in backbones.NAMES})
    return make(config, info, preprocess=backbones.build(name).preprocess)
  return published


# In the order in which they are applied: first those that set a keyword of a
# task's own `make`, which no wrapper has.
SWITCHES = {
    function.__name__: function for function in (
        unchecked_range, overlapping_noise, inference_mode, labels_above_one,
        foreign_preprocessing, batch_metrics, shared_callbacks,
        frozen_by_sharing, last_batch_monitor, misaligned_predictions,
        truncated_steps, clean_evaluation)
}
_KEYWORDS = {
    'unchecked_range': 'check_range',
    'overlapping_noise': 'sample_salt_and_pepper',
    'inference_mode': 'train',
    'labels_above_one': 'objective',
    'foreign_preprocessing': 'preprocess',
}
