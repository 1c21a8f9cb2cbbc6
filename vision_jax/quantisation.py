"""Finished models in fewer bits: bfloat16, or int8 with a scale a channel.

Post-training only, without a gradient. An exported folder is a run folder
whose weights lie in `quantised.safetensors`: a kernel as int8 and
`<name>:scale`, all other arrays as bfloat16. Qwix (an extra) does the
arithmetic; measuring size, time and accuracy is `experiments/quantise.py`.
"""

import json
import pathlib
from typing import Any, NamedTuple

from flax import traverse_util
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import safetensors
import safetensors.flax

from vision_jax import callbacks
from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import results
from vision_jax import runs
from vision_jax import task as task_lib
from vision_jax import writers

FILE = 'quantised.safetensors'
SCHEMES = ('float32', 'bfloat16', 'int8', 'int8_activations')
_SCALE = ':scale'
_SEPARATOR = '/'


class Quantised(NamedTuple):
  """The weights of a model under a scheme.

  Attributes:
    scheme: One of SCHEMES. float32 changes nothing, for comparison; int8
      keeps kernels as integers and computes in float32; int8_activations
      rounds what enters a layer, too, and multiplies integers.
    arrays: {'params/<path>': jax.Array or qwix.QArray}.
    ranges: int8_activations: largest magnitude of each layer's input.
  """
  scheme: str
  arrays: dict[str, Any]
  ranges: dict[str, float]


def quantise(
    variables: dict[str, Any],
    scheme: str,
    *,
    ranges: dict[str, float] | None = None) -> Quantised:
  """Returns the weights of `variables` under `scheme`.

  int8 is symmetric, with one scale an output channel (the last axis of a
  kernel): w = scale * q, scale = max |w| / 127.5, so that |w - scale * q| is
  at most half a scale. Source: Jacob et al. 2018, arXiv:1712.05877, section 2;
  per channel: Krishnamoorthi 2018, arXiv:1806.08342.

  Args:
    variables: Collections of arrays, as `TrainState.variables()` has them.
    scheme: One of SCHEMES.
    ranges: Of `calibrate`; only for int8_activations.

  Raises:
    ConfigError: If the scheme is unknown, or lacks its ranges.
  """
  config_lib.choose('scheme', scheme, dict.fromkeys(SCHEMES))
  if (scheme == 'int8_activations') != bool(ranges):
    raise config_lib.ConfigError(
        f'Scheme {scheme} with {len(ranges or ())} ranges: int8_activations, '
        'and no other, needs those of quantisation.calibrate.')
  flat = traverse_util.flatten_dict(variables, sep=_SEPARATOR)
  other = jnp.float32 if scheme == 'float32' else jnp.bfloat16
  def convert(name, value):
    if scheme.startswith('int8') and name.endswith(f'{_SEPARATOR}kernel'):
      return _qwix().quantize(
          jnp.asarray(value, jnp.float32), jnp.int8,
          channelwise_axes=(value.ndim - 1,))
    return jnp.asarray(value, other)
  return Quantised(
      scheme, {name: convert(name, x) for name, x in flat.items()},
      dict(ranges or {}))


def dequantise(quantised: Quantised) -> dict[str, Any]:
  """Returns the weights as collections of float32 arrays."""
  flat = {
      name: jnp.asarray(value, jnp.float32) if isinstance(value, jax.Array)
      else _qwix().dequantize(value)
      for name, value in quantised.arrays.items()}
  return traverse_util.unflatten_dict(flat, sep=_SEPARATOR)


def error_in_steps(
    variables: dict[str, Any], quantised: Quantised) -> float | None:
  """Returns the largest error of a kernel in steps of its channel.

  None where no kernel is quantised.
  """
  flat = traverse_util.flatten_dict(variables, sep=_SEPARATOR)
  errors = [
      float((jnp.abs(_qwix().dequantize(value) - flat[name])
             / value.scale).max())
      for name, value in quantised.arrays.items()
      if not isinstance(value, jax.Array)]
  return max(errors, default=None)


def calibrate(
    task: task_lib.Task,
    state: task_lib.TrainState,
    images: np.ndarray,
    *,
    batch_size: int = 64) -> dict[str, float]:
  """Returns the largest magnitude that enters each layer, by its path.

  Args:
    task: The task, whose evaluation step is observed.
    state: With float32 weights.
    images: uint8 [n, H, W, C], of the training split.
    batch_size: Images a step.
  """
  @jax.jit
  def observe(state, pixels):
    ranges = {}
    with _layers().observing(ranges):
      task.eval_step(state, _batch(pixels))
    return ranges
  seen = [jax.device_get(observe(state, images[i:i + batch_size]))
          for i in range(0, len(images), batch_size)]
  # A layer that only ever saw zeros still needs a range.
  tiny = float(np.finfo(np.float32).tiny)
  return {name: max(tiny, *(float(part[name]) for part in seen))
          for name in seen[0]}


def _batch(pixels: jax.Array) -> task_lib.Batch:
  return {'image': pixels.astype(jnp.float32) / 255,
          'label': jnp.zeros(len(pixels), jnp.int32)}


def save(path: str | pathlib.Path, quantised: Quantised) -> None:
  """Writes the weights into a `.safetensors` file."""
  tensors = {}
  for name, value in quantised.arrays.items():
    if isinstance(value, jax.Array):
      tensors[name] = value
    else:
      tensors |= {name: value.qvalue, name + _SCALE: value.scale}
  safetensors.flax.save_file(tensors, path, metadata={
      'scheme': quantised.scheme, 'ranges': json.dumps(quantised.ranges)})


def load(path: str | pathlib.Path) -> Quantised:
  """Reads what `save` wrote.

  Raises:
    ConfigError: If the file was not written by `save`.
  """
  with safetensors.safe_open(path, framework='flax') as file:
    about = file.metadata() or {}
    tensors = {name: file.get_tensor(name) for name in file.keys()}
  if set(about) != {'scheme', 'ranges'}:
    raise config_lib.ConfigError(
        f'{path} is no quantised model: its header lacks scheme and ranges.')
  arrays = {name: value for name, value in tensors.items()
            if not name.endswith(_SCALE)}
  for name in arrays:
    if name + _SCALE in tensors:
      arrays[name] = _qwix().QArray(arrays[name], tensors[name + _SCALE])
  return Quantised(about['scheme'], arrays, json.loads(about['ranges']))


def export(
    config: ml_collections.ConfigDict,
    source: str | pathlib.Path,
    target: str | pathlib.Path,
    quantised: Quantised) -> None:
  """Writes a folder that `--mode=predict --workdir=<target>` understands.

  Args:
    config: The config of the run.
    source: The folder of the finished run.
    target: The folder to write.
    quantised: Its weights.
  """
  folder = pathlib.Path(target)
  if quantised.scheme == 'bfloat16':
    config = config_lib.replace(config, model__dtype='bfloat16')
  folder.mkdir(parents=True, exist_ok=True)
  writers.prepare(folder, config)
  save(folder / FILE, quantised)
  run = results.read(source)
  writers.write_json(folder / 'result.json', {
      **{name: run[name] for name in
         ('name', 'task', 'protocol', 'seed', 'class_names')},
      'source': str(source), 'scheme': quantised.scheme})


def exists(folder: str | pathlib.Path) -> bool:
  """Whether `folder` holds a quantised model."""
  return (pathlib.Path(folder) / FILE).is_file()


def restore(
    config: ml_collections.ConfigDict,
    info: task_lib.Info,
    folder: str | pathlib.Path,
) -> tuple[task_lib.Task, task_lib.TrainState]:
  """Returns the task and the state of an exported folder, for inference.

  The task's evaluation step computes as the scheme says.

  Raises:
    ConfigError: If the weights do not fit the config.
  """
  quantised = load(pathlib.Path(folder) / FILE)
  task = runs.make_task(config, info)
  state = _state(task, config, dequantise(quantised), folder)
  if not quantised.ranges:
    return task, state
  flat = traverse_util.flatten_dict(state.params, sep=_SEPARATOR)
  for layer in quantised.ranges:
    name = _SEPARATOR.join((layer, 'kernel'))
    flat[name] = quantised.arrays[_SEPARATOR.join(('params', name))]
  state = state.replace(
      params=traverse_util.unflatten_dict(flat, sep=_SEPARATOR))
  return task._replace(
      eval_step=_integer_step(task.eval_step, quantised.ranges)), state


def _integer_step(eval_step, ranges):
  def step(state, batch):
    with _layers().integers(ranges):
      return eval_step(state, batch)
  return step


def _state(task, config, weights, source) -> task_lib.TrainState:
  """Returns a state with these float32 weights and nothing to train on."""
  state = jax.eval_shape(task.init, jax.random.key(config.seed))
  matched = {
      name: checkpoint.match(
          getattr(state, name), weights[name] if name in weights else {},
          source=f'{source}, {name}')
      for name in ('params', 'batch_stats')}
  return state.replace(
      step=jnp.zeros((), jnp.int32), opt_state=(), ema={}, best={},
      callbacks=callbacks.init(), **matched)


def _layers():
  """Returns vision_jax.models.quantised, which imports qwix."""
  _qwix()
  from vision_jax.models import quantised
  return quantised


def _qwix():
  """Returns the module qwix, which is an extra and slow to import."""
  try:
    import qwix
  except ImportError as error:
    raise config_lib.ConfigError(
        'Quantised models need the package qwix: '
        'pip install "vision_jax[quantise]".') from error
  return qwix
