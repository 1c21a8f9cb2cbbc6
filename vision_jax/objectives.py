"""The training objective of a classifier, as config.loss names it.

Joins the losses of losses.py and imbalance_losses.py with class weights and a
reduction. Evaluation always reports the plain cross-entropy.
"""

from typing import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from vision_jax import config as config_lib
from vision_jax import imbalance_losses
from vision_jax import losses
from vision_jax import task as task_lib

# Chou et al.'s threshold on the share of the common image.
_REMIX_TAU = 0.5


def make(
    config: ml_collections.ConfigDict, info: task_lib.Info,
) -> Callable[..., tuple[jax.Array, jax.Array]]:
  """Returns the function (logits, batch, step) -> (objective [], losses [B]).

  The losses are those of the examples before class weights. A batch with
  `target` has soft labels.

  Raises:
    ConfigError: For an unknown name, or a field that the loss ignores.
  """
  node, counts = config.loss, np.array(info.class_counts)
  smoothing = config.train.label_smoothing
  if smoothing and node.name != 'cross_entropy':
    raise config_lib.ConfigError(
        f'config.train.label_smoothing has no effect with config.loss.name='
        f'{node.name!r}; set it to 0.')
  loss = config_lib.choose('loss.name', node.name, {
      'cross_entropy': lambda logits, labels: losses.cross_entropy(
          logits, labels, smoothing=smoothing),
      'focal': lambda logits, labels: imbalance_losses.focal(
          logits, labels, gamma=node.gamma),
      'ldam': lambda logits, labels: imbalance_losses.ldam(
          logits, labels, counts, largest=node.margin, scale=node.scale),
      'logit_adjusted': lambda logits, labels: imbalance_losses.logit_adjusted(
          logits, labels, counts, tau=node.tau),
      'balanced_softmax': lambda logits, labels: (
          imbalance_losses.balanced_softmax(logits, labels, counts)),
  })
  weights_of = config_lib.choose('loss.weights', node.weights, {
      'none': lambda: np.ones(len(info.class_names)),
      'inverse': lambda: imbalance_losses.inverse_weights(counts),
      'effective': lambda: imbalance_losses.effective_weights(
          counts, beta=node.beta),
  })
  config_lib.choose('loss.reduction', node.reduction, {
      'examples': None, 'weights': None})
  kappa = config.augment.remix_kappa
  if kappa and (config.augment.cutmix_alpha or not config.augment.mixup_alpha):
    raise config_lib.ConfigError(
        'config.augment.remix_kappa relabels mixup: set '
        'config.augment.mixup_alpha, and cutmix_alpha to 0.')

  def objective(logits, batch, step):
    labels = _labels(batch, counts, kappa)
    values = loss(logits, labels)
    # Not before it runs: a task that only evaluates knows no counts.
    weights = jnp.asarray(weights_of(), jnp.float32)
    if node.defer_epochs:
      weights = imbalance_losses.deferred(
          weights, step // info.steps_per_epoch, start=node.defer_epochs)
    each = imbalance_losses.example_weights(weights, labels)
    return imbalance_losses.weighted_mean(
        values, each, batch['mask'], by=node.reduction), values
  return objective


def _labels(batch: task_lib.Batch, counts, kappa: float) -> jax.Array:
  """Returns the labels to learn: hard, or soft where images were mixed."""
  if 'target' not in batch:
    return batch['label']
  if not kappa:
    return batch['target']
  own, partner = batch['label'], batch['label'][batch['partner']]
  sizes, classes = jnp.asarray(counts), batch['target'].shape[-1]
  share = imbalance_losses.remix_share(
      batch['share'], sizes[own], sizes[partner], kappa=kappa,
      tau=_REMIX_TAU)[:, None]
  return (share * jax.nn.one_hot(own, classes)
          + (1 - share) * jax.nn.one_hot(partner, classes))
