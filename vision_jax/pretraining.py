"""Finds or makes the run whose encoder another run starts from.

`config.model.weights` names a run folder, or a config file with its argument.
In the second case the run of that config on the same data is trained once,
in `runs/pretrained/<name>-<hash of its config>`, and used again after that. In
both it must not have been trained on what is tested here.
"""

import hashlib
import importlib.util
import json
import pathlib

import ml_collections

from vision_jax import config as config_lib
from vision_jax import config_io
from vision_jax.data import errors
from vision_jax.data import joined

# What a pre-training decides for itself; it shares all other fields of
# config.data, so that no image of the test is among those that it sees.
_OWN = ('label_fraction', 'validation_fraction', 'validation_rounding')
# Likewise, where its config file names the same data.
_GEOMETRY = ('image_size', 'channels', 'resize')
_SEEN = {'train': ('train',), 'unlabelled': ('unlabelled',),
         joined.SPLIT: ('train', 'unlabelled')}


def config_of(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns the config that `config.model.weights` names, on the same data.

  It keeps its share of labels and of validation examples and, unless
  `config.data` was turned to other images, its way of bringing them to a size.

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
  place = lambda data: (data.source, data.path)
  own = _OWN + (
      _GEOMETRY if place(made.data) == place(config.data) else ())
  for field in config.data:
    if field not in own:
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
      and key not in ('data.root', 'data.cache_dir', 'data.hint',
                      'data.resident_megabytes')}
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


def check_unseen(folder: str | pathlib.Path, dataset) -> None:
  """Raises ConfigError if the run in `folder` saw test images of `dataset`.

  Images are told by the hash of their contents. Copies that this run trains on
  itself are not counted: `config.data.duplicates` has settled them.

  Args:
    folder: A finished run whose weights are used; anything else is no run and
      is not looked into.
    dataset: A `pipeline.Dataset`.
  """
  manifest = pathlib.Path(folder) / 'manifest.json'
  if not str(folder) or not manifest.is_file():
    return
  config = json.loads((manifest.parent / 'config.json').read_text())
  def hashes(rows, splits):
    return {row['sha256'] for row in rows if row['split'] in splits}
  seen = hashes(json.loads(manifest.read_text())['files'],
                _SEEN[config['train']['split']])
  seen -= hashes(dataset.manifest, ('train', 'unlabelled'))
  leaked = [row['id'] for row in dataset.manifest
            if row['split'] == 'test' and row['sha256'] in seen]
  if leaked:
    raise config_lib.ConfigError(
        f'{folder} was trained on {errors.count(len(leaked), "image")} that '
        'would be tested here; train it anew on the same splits (the same '
        'config.data.split_seed, test_fraction, classes and patterns):'
        f'{errors.shortlist(leaked)}')


def check(asked: str, config: ml_collections.ConfigDict, dataset) -> None:
  """Raises ConfigError if a run's pre-training does not suit its data.

  Args:
    asked: `config.model.weights` before `resolve`.
    config: After it.
    dataset: The run's `pipeline.Dataset`.
  """
  folder = config.model.weights
  if folder != asked:
    # Data that was moved finds its pre-training again; so would other data in
    # the same place, for the name holds no hash of images.
    rows = json.loads(
        (pathlib.Path(folder) / 'manifest.json').read_text())['files']
    if {row['sha256'] for row in rows} != {
        row['sha256'] for row in dataset.manifest}:
      raise config_lib.ConfigError(
          f'{folder} was pre-trained on other images than config.data holds '
          'now; remove that folder to pre-train again.')
  check_unseen(folder, dataset)
