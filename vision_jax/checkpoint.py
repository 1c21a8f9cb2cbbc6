"""Checkpoints through Orbax: asynchronous, atomic, last and best kept.

A checkpoint is one tree of arrays (the training state and the sums of the
epoch so far). It is restored into the tree of a fresh run, leaf by leaf and
with that run's shardings, so it opens on any number of devices.
"""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from vision_jax import config as config_lib
from vision_jax import config_io
from vision_jax import optim

FOLDER = 'checkpoints'


def open_manager(
    folder: str | pathlib.Path,
    config: ml_collections.ConfigDict) -> ocp.CheckpointManager:
  """Returns the manager of a run folder's checkpoints; close it after use.

  Args:
    folder: The run folder.
    config: The node `config.checkpoint`.
  """
  policies = [preservation_policy.LatestN(config.keep_last)]
  if config.keep_best:
    policies.append(preservation_policy.BestN(
        get_metric_fn=lambda metrics: metrics['monitor'], reverse=True,
        n=config.keep_best, keep_checkpoints_without_metrics=False))
  return ocp.CheckpointManager(
      pathlib.Path(folder).absolute() / FOLDER, item_handlers=_handler(),
      options=ocp.CheckpointManagerOptions(
          preservation_policy=preservation_policy.AnyPreservationPolicy(
              policies)))


def _handler() -> ocp.PyTreeCheckpointHandler:
  # Compression saves 8 % of float32 weights and costs six times the time.
  return ocp.PyTreeCheckpointHandler(use_compression=False)


def save(
    manager: ocp.CheckpointManager, step: int, tree: Any, *,
    monitor: float | None = None) -> None:
  """Saves `tree` under `step`, in the background.

  Args:
    manager: From `open_manager`.
    step: Number of training steps done.
    tree: The tree of arrays.
    monitor: Value that ranks checkpoints, lower is better; None for one
      inside an epoch.
  """
  metrics = None if monitor is None else {'monitor': float(monitor)}
  manager.save(step, args=ocp.args.PyTreeSave(tree), metrics=metrics)


def restore(
    manager: ocp.CheckpointManager, template: Any, *,
    step: int | None = None) -> Any | None:
  """Returns a checkpoint in the shape of `template`; None where there is none.

  Args:
    manager: From `open_manager`.
    template: Tree of arrays with the shapes, types and shardings wanted.
    step: That of the checkpoint; None = the newest.
  """
  step = manager.latest_step() if step is None else step
  if step is None:
    return None
  abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
  return manager.restore(step, args=ocp.args.PyTreeRestore(
      abstract, ocp.checkpoint_utils.construct_restore_args(abstract)))


def export(folder: str | pathlib.Path, variables: Any) -> None:
  """Writes the final weights alone into `<folder>/weights`, replacing any."""
  target = pathlib.Path(folder).absolute() / 'weights'
  with ocp.Checkpointer(_handler()) as checkpointer:
    checkpointer.save(target, args=ocp.args.PyTreeSave(variables), force=True)


def load_weights(folder: str | pathlib.Path) -> dict[str, Any]:
  """Returns a finished run's weights as nested dictionaries of host arrays.

  Raises:
    ConfigError: If the folder is no finished run.
  """
  target = pathlib.Path(folder).absolute() / 'weights'
  if not target.is_dir():
    raise config_lib.ConfigError(
        f'{folder} has no folder weights/: it is no finished run. Train it '
        f'first: python -m vision_jax.main --config=... --workdir={folder}')
  with ocp.StandardCheckpointer() as checkpointer:
    # Host arrays: the weights may have been written on other devices.
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
        dict(checkpointer.metadata(target).item_metadata.tree))
    return checkpointer.restore(target, abstract)


def transfer(params: Any, weights: Any, *, module: str, source: str) -> Any:
  """Returns `params` with its subtree `module` taken from another run.

  Args:
    params: Parameter tree with a top-level `module`.
    weights: The same collection of `load_weights`.
    module: Name of the subtree.
    source: Where `weights` came from, for the message.

  Raises:
    ConfigError: If a leaf is missing, extra or misshapen; it lists them all.
  """
  if module not in weights:
    raise config_lib.ConfigError(
        f'{source} has no module {module!r}, only {", ".join(weights)}.')
  return {**params, module: match(
      params[module], weights[module], source=f'{source}, {module}')}


def match(template: Any, donor: Any, *, source: str) -> Any:
  """Returns the leaves of `donor` in the shape and types of `template`.

  Raises:
    ConfigError: If a leaf is missing, extra or misshapen; it lists them all.
  """
  def leaves(tree):
    return {optim.path_name(path): leaf for path, leaf
            in jax.tree_util.tree_leaves_with_path(tree)}
  have, want = leaves(donor), leaves(template)
  problems = [f'missing {name}' for name in want if name not in have]
  problems += [f'extra {name}' for name in have if name not in want]
  problems += [
      f'{name} is {have[name].shape}, wanted {want[name].shape}'
      for name in want
      if name in have and have[name].shape != want[name].shape]
  if problems:
    raise config_lib.ConfigError(
        f'{source} does not fit this model: {"; ".join(problems)}.')
  return jax.tree_util.tree_map_with_path(
      lambda path, leaf: jnp.asarray(
          have[optim.path_name(path)], leaf.dtype), template)


def read_config(folder: str | pathlib.Path) -> ml_collections.ConfigDict:
  """Returns the config that a run folder was made with.

  Raises:
    ConfigError: If there is none, or its fields are not this version's.
  """
  path = pathlib.Path(folder) / 'config.json'
  if not path.is_file():
    raise config_lib.ConfigError(f'{folder} is no run folder: no config.json.')
  return config_io.from_dict(json.loads(path.read_text()))
