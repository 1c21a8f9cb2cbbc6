"""Losses against class imbalance, per example, and the weights they use.

Each takes logits [B, classes] and labels, int [B] or soft [B, classes], and
`counts`, the training examples of each class. Sampling is the other remedy
(data/samplers.py); what changes a finished classifier is in decoupled.py.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vision_jax import losses


def inverse_weights(counts: np.ndarray) -> np.ndarray:
  """Weights N / (classes * n_c) of each class, whose mean over examples is 1.

  Source: King and Zeng, 2001, "Logistic regression in rare events data";
  scikit-learn calls them balanced.
  """
  counts = np.asarray(counts, np.float64)
  return counts.sum() / (len(counts) * counts)


def effective_weights(counts: np.ndarray, *, beta: float) -> np.ndarray:
  """Weights (1 - beta) / (1 - beta^n_c), scaled so that they sum to classes.

  Source: Cui et al., 2019, arXiv:1901.05555, equations 3 and 8.

  Args:
    counts: Examples of each class, [classes].
    beta: In [0, 1); 0 weighs all alike, near 1 by 1 / n_c.
  """
  # In float64: at beta .9999 and n 1 half of float32 would cancel.
  weights = 1 / (1 - beta ** np.asarray(counts, np.float64))
  return weights * len(counts) / weights.sum()


def example_weights(weights: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the weight [B] of each example; soft labels mix weights."""
  if labels.ndim == 1:
    return weights[labels]
  return labels @ weights


def weighted_mean(
    values: jax.Array, weights: jax.Array, mask: jax.Array, *, by: str,
) -> jax.Array:
  """Joins losses [B] with weights [B] over the rows with mask 1.

  Args:
    values: Losses.
    weights: Weights.
    mask: 0 for padding rows.
    by: 'examples': the sum of weight * loss over the number of examples, as
      Keras has it; 'weights': over the sum of the weights, as PyTorch has it.
      The first lets a batch of rare examples move the network further.

  Raises:
    ValueError: `by` is neither.
  """
  total = (values * weights * mask).sum()
  if by == 'examples':
    return total / jnp.maximum(mask.sum(), 1.0)
  if by == 'weights':
    scale = (weights * mask).sum()
    return total / jnp.where(scale > 0, scale, 1.0)
  raise ValueError(f'by is {by!r}; it must be "examples" or "weights"')


def focal(logits: jax.Array, labels: jax.Array, *, gamma: float) -> jax.Array:
  """Cross-entropy times (1 - p)^gamma, p the probability of the true class.

  Class weights multiply the result and never enter p. Source: Lin et al.,
  2017, arXiv:1708.02002, equation 4, over a softmax.
  """
  loss = losses.cross_entropy(logits, labels)
  # Of a soft label, p is exp(-loss), as for a hard one.
  return jnp.maximum(-jnp.expm1(-loss), 1e-12) ** gamma * loss


def ldam(
    logits: jax.Array, labels: jax.Array, counts: jax.Array, *,
    largest: float, scale: float) -> jax.Array:
  """Cross-entropy with a label-distribution-aware margin.

  The true class's logit is lowered by a margin proportional to n_c^(-1/4).
  Source: Cao et al., 2019, arXiv:1906.07413, equation 13.

  Args:
    logits: [B, classes]; the source's are cosines, in [-1, 1].
    labels: int [B], or soft [B, classes].
    counts: Examples of each class, [classes].
    largest: Margin of the rarest class; .5 in the source.
    scale: Factor of the logits after the margin; 30 in the source, 1 suits
      logits that are not cosines.
  """
  margins = jnp.asarray(counts, jnp.float32) ** -0.25
  margins = margins * (largest / margins.max())
  if labels.ndim == 1:
    labels = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
  return losses.cross_entropy(scale * (logits - labels * margins), labels)


def deferred(
    weights: np.ndarray, epoch: jax.Array, *, start: int) -> jax.Array:
  """Returns class weights of one before epoch `start`, then `weights`.

  Source: deferred re-weighting, Cao et al., 2019, arXiv:1906.07413,
  algorithm 1.
  """
  weights = jnp.asarray(weights, jnp.float32)
  return jnp.where(epoch < start, jnp.ones_like(weights), weights)


def logit_adjusted(
    logits: jax.Array, labels: jax.Array, counts: jax.Array, *, tau: float,
) -> jax.Array:
  """Cross-entropy of logits + tau * log(share of the class).

  At tau 1 it is `balanced_softmax`. Source: Menon et al., 2021,
  arXiv:2007.07314, equation 10.
  """
  return losses.cross_entropy(
      logits + tau * _log_shares(counts), labels)


def adjust(logits: jax.Array, counts: jax.Array, *, tau: float) -> jax.Array:
  """Returns logits - tau * log(share): the adjustment after training.

  Source: Menon et al., 2021, arXiv:2007.07314, equation 9.
  """
  return logits - tau * _log_shares(counts)


def balanced_softmax(
    logits: jax.Array, labels: jax.Array, counts: jax.Array) -> jax.Array:
  """Cross-entropy of a softmax whose terms are multiplied by n_c.

  Source: Ren et al., 2020, arXiv:2007.10740, equation 4.
  """
  return losses.cross_entropy(
      logits + jnp.log(jnp.asarray(counts, jnp.float32)), labels)


def remix_share(
    share: jax.Array, own: jax.Array, partner: jax.Array, *,
    kappa: float, tau: float) -> jax.Array:
  """Returns the share of the own label when two images are mixed.

  Where one class is `kappa` times rarer than the other, its label takes all,
  provided that the other's image has a share below `tau`. Source: Chou et al.,
  2020, arXiv:2007.03943, equation 8.

  Args:
    share: Share of the own image in the mixture, in [0, 1].
    own: Training examples of the own class, in the shape of `share`.
    partner: Training examples of the other class.
    kappa: 3 in the source.
    tau: .5 in the source.
  """
  share = jnp.where((own >= kappa * partner) & (share < tau), 0.0, share)
  return jnp.where(
      (kappa * own <= partner) & (1 - share < tau), 1.0, share)


def _log_shares(counts: jax.Array) -> jax.Array:
  counts = jnp.asarray(counts, jnp.float32)
  return jnp.log(counts / counts.sum())
