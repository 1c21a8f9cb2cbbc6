"""Finds or makes the run whose encoder another run starts from.

`config.model.weights` names a run folder, or a config file with its argument.
In the second case the run of that config on the same data is trained once,
in `runs/pretrained/<name>-<hash of its config>`, and used again after that.
"""

import hashlib
import importlib.util
import pathlib

import ml_collections

from vision_jax import config as config_lib
from vision_jax import config_io

_SHARED = ('root', 'cache_dir', 'on_bad_file', 'duplicates', 'split_seed')


def config_of(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns the config that `config.model.weights` names, on the same data.

  Raises:
    ConfigError: If there is no such config file.
  """
  path, _, arg = config.model.weights.partition(':')
  if not pathlib.Path(path).is_file():
    raise config_lib.ConfigError(
        f'config.model.weights={config.model.weights!r}: there is no config '
        f'file {path}.')
  spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  made = module.get_config(arg)
  for field in _SHARED:
    made.data[field] = config.data[field]
  made.report.progress = config.report.progress
  made.runtime.update(config.runtime)
  return made


def folder_of(
    config: ml_collections.ConfigDict, root: pathlib.Path) -> pathlib.Path:
  """Returns the run folder below `root` that belongs to `config`.

  Its name holds a hash of the fields that decide the weights and differ from
  the defaults: where the data lies and what is shown on the way do not.
  """
  fields = config_io.changes(config_lib.base(), config)
  decisive = {
      key: value for key, (_, value) in fields.items()
      if not key.startswith(('report.', 'runtime.', 'checkpoint.'))
      and key not in ('data.root', 'data.cache_dir', 'data.hint')}
  digest = hashlib.sha256(repr(sorted(decisive.items())).encode()).hexdigest()
  return root / f'{config.name}-{digest[:8]}'


def resolve(
    config: ml_collections.ConfigDict,
    train,
    *,
    root: pathlib.Path) -> ml_collections.ConfigDict:
  """Returns `config` with the folder of a finished run as `model.weights`.

  Args:
    config: A whole config.
    train: (config, folder) -> result, called where the run is not finished.
    root: Folder of the pre-trained runs.
  """
  # Run folders, weight files and 'published' are there already, or are the
  # encoder's to find.
  if '.py' not in config.model.weights.partition(':')[0]:
    return config
  needed = config_of(config)
  folder = folder_of(needed, root)
  if not (folder / 'result.json').is_file():
    print(f'Pre-training {config.model.weights} in {folder}')
    train(needed, folder)
  return config_lib.replace(config, model__weights=str(folder))
