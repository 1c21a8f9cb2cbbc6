"""Chooses the rows of each batch and turns rows into images.

Which rows a batch has is a pure function of (members, seed, step), so that
nothing about the data needs saving for an exact resume. Images stay uint8 until
they are inside the jitted step. Augmentation is not done here.
"""

from concurrent import futures
import functools
import mmap
from typing import Any, Callable, Iterable, Iterator, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vision_jax.data import errors

# Bytes of a mapped file that may be in memory, and what touching one brings in.
_MAPPED, _FAULT = 2**25, 2**16


class Store(NamedTuple):
  """Access to the images of a dataset, wherever they are kept.

  A step is fed in two moves, the same for resident and for streamed images:
  `inputs = store.feed(rows)` on the host, and inside jit
  `batch = store.gather(arrays, inputs)` with `store.arrays` as an argument.

  Attributes:
    arrays: What stays on the device: `label` [n], `context` [n, levels] where
      the data has it and, if resident, `image` uint8 [n, h, w, c].
    feed: Maps rows int32 [B] to the inputs of one batch, on the host.
    gather: Maps (arrays, inputs) to `image` float32 [B, h, w, c] in [0, 1],
      `label` int32 [B], `id` int32 [B], the rows, and `context` if there.
  """
  arrays: dict[str, Any]
  feed: Callable[[np.ndarray], dict[str, Any]]
  gather: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]


def steps_per_epoch(n: int, batch_size: int, remainder: str) -> int:
  """How many batches n examples make.

  Args:
    n: Number of examples.
    batch_size: Examples a batch.
    remainder: 'pad' fills up the last batch; 'drop' leaves the rest out.

  Raises:
    errors.DataError: There is not one batch.
  """
  errors.check_choice('remainder', remainder, allowed=('pad', 'drop'))
  steps = n // batch_size if remainder == 'drop' else -(-n // batch_size)
  if not steps:
    raise errors.DataError(
        f'{n} training examples make no batch of {batch_size}; lower '
        'config.train.batch_size or, if there are any examples, set '
        'config.train.remainder to "pad".')
  return steps


def train_indices(
    members: np.ndarray, batch_size: int, seed: int, step: int, remainder: str,
    visits: Callable[[int], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """The rows of one training batch, a pure function of its arguments.

  Each epoch visits every member once, in an order that follows from seed and
  epoch. A last batch that is not full repeats the first members of its epoch's
  order, masked.

  Args:
    members: int [n], the rows to train on.
    batch_size: B.
    seed: Any non-negative integer.
    step: Number of batches before this one, over all epochs.
    remainder: 'pad' or 'drop', as in `steps_per_epoch`.
    visits: Maps an epoch to the places among the members that it visits, in
      order and of constant number; None visits each member once.

  Returns:
    rows int32 [B] and mask float32 [B], 0 for repeated rows.
  """
  n = len(members) if visits is None else len(visits(0))
  epoch, index = divmod(step, steps_per_epoch(n, batch_size, remainder))
  places = index * batch_size + np.arange(batch_size)
  chosen = (_epoch_order(n, seed=seed, epoch=epoch) if visits is None
            else visits(epoch))
  # Only the batch's members: all of them, every step, would add up.
  picked, mask = _pick(chosen, places)
  return np.asarray(members)[picked].astype(np.int32), mask


def eval_batches(members: np.ndarray, batch_size: int
                 ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields (rows int32 [B], mask float32 [B]): each member once, in order."""
  for start in range(0, len(members), batch_size):
    yield _pick(np.asarray(members), start + np.arange(batch_size))


def least_padding(
    splits: dict[str, tuple[int, int]], *, largest: int, multiple: int) -> int:
  """Returns the batch size with which evaluations compute the fewest rows.

  Args:
    splits: By name, how many examples and how often they are evaluated.
    largest: The largest size, a multiple of `multiple`; more than half of it
      is used, so that there is work for every core.
    multiple: What a size has to be divisible by.
  """
  def rows(size):
    return sum(times * -(-n // size) * size for n, times in splits.values())
  sizes = range(largest, largest // 2, -multiple)
  return min(sizes, key=rows)


def make_store(dataset, config_data, *, sharding=None) -> Store:
  """Makes the images of a dataset available to a jitted step.

  Args:
    dataset: A `pipeline.Dataset`.
    config_data: Reads resident_megabytes (2**20 bytes): images up to that size
      are moved to the device once, larger ones batch by batch.
    sharding: Where `arrays` lie, for instance copied to every device of a
      mesh; None for the default device.

  Returns:
    A Store; both kinds give the same batches, bit for bit.
  """
  resident = dataset.images.nbytes <= config_data.resident_megabytes * 2**20
  arrays, read = dict(label=dataset.labels), reader(dataset.images)
  if dataset.context is not None:
    arrays['context'] = dataset.context
  if resident:
    arrays['image'] = np.asarray(dataset.images)
  def feed(rows):
    inputs = dict(id=np.asarray(rows, np.int32))
    if not resident:
      inputs['image'] = read(rows)
    return inputs
  return Store(jax.device_put(arrays, sharding), feed, _gather)


def reader(images: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
  """Returns a function of rows int [B] -> `images[rows]` in new memory.

  What was touched of a mapped file stays in the process, which would grow to
  the size of the data: every so often its pages are given back.

  Args:
    images: uint8 [n, h, w, c], in memory or mapped.
  """
  if not (isinstance(images, np.memmap)
          and isinstance(images.base, mmap.mmap)):
    return lambda rows: np.asarray(images[rows])
  # Of a mapping even a slice is an object with a file's name and takes long.
  plain, each, touched = images.view(np.ndarray), images[0].nbytes, 0
  def read(rows):
    nonlocal touched
    # To read beyond the end of the file would end the process. The mapping
    # knows its file, whatever became of the name.
    within = (images.base.size() - images.offset) // each
    if rows.max() >= within:
      raise errors.DataError(
          f'{images.filename} ends within image {within}; delete the file, it '
          'is made anew.')
    touched += len(rows) * max(each, _FAULT)
    found = np.take(plain, rows, axis=0)
    if min(touched, plain.nbytes) > _MAPPED:
      images.base.madvise(mmap.MADV_DONTNEED)
      touched = 0
    return found
  return read


def prefetch(function: Callable[[Any], Any], items: Iterable[Any]
             ) -> Iterator[Any]:
  """Maps `function` over `items` in another thread, one item ahead.

  With a function that feeds a batch, the next batch is read from disk and
  moved while the device computes.
  """
  with futures.ThreadPoolExecutor(1) as pool:
    coming = []
    for item in items:
      coming.append(pool.submit(function, item))
      if len(coming) > 1:
        yield coming.pop(0).result()
    if coming:
      yield coming.pop().result()


def _gather(arrays, inputs):
  rows = inputs['id']
  pixels = inputs['image'] if 'image' in inputs else arrays['image'][rows]
  return dict(image=pixels.astype(jnp.float32) / 255, id=rows,
              **by_row(arrays, rows))


def by_row(arrays, rows) -> dict[str, Any]:
  """Returns what a batch of `rows` holds besides its images and ids."""
  return {name: arrays[name][rows] for name in ('label', 'context')
          if name in arrays}


def _pick(ordered: np.ndarray, places: np.ndarray):
  """The rows at `places`, going round at the end, and the mask of the rest."""
  n = len(ordered)
  rows = ordered[places % n].astype(np.int32)
  return rows, (places < n).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _epoch_order(n: int, *, seed: int, epoch: int) -> np.ndarray:
  generator = np.random.Generator(
      np.random.Philox(np.random.SeedSequence((seed, epoch))))
  return generator.permutation(n)
