"""Losses that need no label: agreement of views, of models, of a batch.

Each gives a loss an example; nothing averages over a batch by itself, and a
target never carries a gradient. Knows no task, no views and no weights.
"""

import jax
import jax.numpy as jnp
import optax

# A similarity that no softmax sees.
_NEVER = -1e9


def confident(
    teacher: jax.Array, *, threshold: float) -> tuple[jax.Array, jax.Array]:
  """Returns hard labels int [B] and whether they count, float [B].

  Args:
    teacher: Logits [B, classes] that make the labels.
    threshold: Probability from which a label counts.
  """
  probabilities = jax.nn.softmax(jax.lax.stop_gradient(teacher))
  sure = probabilities.max(-1) >= threshold
  return probabilities.argmax(-1), sure.astype(probabilities.dtype)


def pseudo_label(
    logits: jax.Array, teacher: jax.Array, *, threshold: float) -> jax.Array:
  """Cross-entropy with the teacher's hard label, 0 where it is unsure, [B].

  The mean over all B is equation 4 of Sohn et al., 2020, arXiv:2001.07685;
  with threshold 0 and one view, the method of Lee, 2013, "Pseudo-label".

  Args:
    logits: Of the student, [B, classes].
    teacher: Logits [B, classes].
    threshold: Probability from which a teacher's label counts.
  """
  labels, sure = confident(teacher, threshold=threshold)
  return sure * optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def consistency(logits: jax.Array, teacher: jax.Array) -> jax.Array:
  """Squared distance of the two distributions, mean over the classes, [B].

  Source: Tarvainen and Valpola, 2017, arXiv:1703.01780, section 3.
  """
  target = jax.nn.softmax(jax.lax.stop_gradient(teacher))
  return jnp.square(jax.nn.softmax(logits) - target).mean(-1)


def ramp_up(step: jax.Array, length: float) -> jax.Array:
  """The sigmoid-shaped weight exp(-5 (1 - t)^2), t = step / length up to 1.

  1 throughout where `length` is 0. Source: Laine and Aila, 2017,
  arXiv:1610.02242, section 2.
  """
  if not length:
    return jnp.ones(())
  return jnp.exp(-5.0 * jnp.square(1.0 - jnp.minimum(step / length, 1.0)))


def nt_xent(
    first: jax.Array, second: jax.Array, mask: jax.Array, *,
    temperature: float) -> jax.Array:
  """Cross-entropy of finding the other view among all views, [B].

  Each of an image's two views looks for the other among the 2B - 1 other
  views; a row's loss is the mean of its two. Views with mask 0 are not looked
  at. Source: Chen et al., 2020, arXiv:2002.05709, equation 1.

  Args:
    first: Embeddings [B, d] of one view; their lengths do not matter.
    second: Of the other view, in the same order.
    mask: [B].
    temperature: Divides the cosine similarity.
  """
  views = jnp.concatenate([first, second])
  views *= jax.lax.rsqrt(
      jnp.maximum(jnp.square(views).sum(-1, keepdims=True), 1e-12))
  similarity = views @ views.T / temperature
  hidden = jnp.eye(len(views), dtype=bool) | (jnp.tile(mask, 2) == 0)
  similarity = jnp.where(hidden, _NEVER, similarity)
  partner = jnp.roll(jnp.arange(len(views)), len(first))
  each = optax.softmax_cross_entropy_with_integer_labels(similarity, partner)
  return each.reshape(2, -1).mean(0)
