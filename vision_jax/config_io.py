"""Configs as values: read back from JSON, compared, flattened."""

import ml_collections

from vision_jax import config as config_lib


def from_dict(values: dict) -> ml_collections.ConfigDict:
  """Returns the config with these values, as `json.loads` reads them.

  Raises:
    ConfigError: If fields are missing or unknown; it names them.
  """
  config = config_lib.base()
  _fill(config, values, 'config')
  return config


def _fill(node: ml_collections.ConfigDict, values: dict, path: str) -> None:
  if set(values) != set(node.keys()):
    wrong = sorted(set(values) ^ set(node.keys()))
    raise config_lib.ConfigError(
        f'{path}: these fields are missing or unknown: {", ".join(wrong)}.')
  for key, value in values.items():
    if isinstance(node[key], ml_collections.ConfigDict):
      _fill(node[key], value, f'{path}.{key}')
    else:
      node[key] = tuple(value) if isinstance(value, list) else value


def changes(
    old: ml_collections.ConfigDict,
    new: ml_collections.ConfigDict) -> dict[str, tuple]:
  """Returns {field: (old value, new value)} for the fields that differ."""
  flat_old, flat_new = flatten(old), flatten(new)
  return {key: (flat_old[key], flat_new[key]) for key in flat_old
          if flat_old[key] != flat_new[key]}


def flatten(node: ml_collections.ConfigDict, prefix: str = '') -> dict:
  """Returns {'a.b': value} for every field of `node`."""
  flat = {}
  for key, value in node.items():
    if isinstance(value, ml_collections.ConfigDict):
      flat |= flatten(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = value
  return flat
