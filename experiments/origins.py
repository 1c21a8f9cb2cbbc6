"""What the runs are that an experiment starts from, from their own configs.

A report may outlive the run folders that its command names.
"""

from collections.abc import Mapping
import os

from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import config_io

# Fields that make a network what it is.
_TOLD = ('task', 'seed', 'protocol', 'data.path', 'data.image_size',
         'data.channels', 'data.label_fraction', 'model.', 'train.', 'loss.',
         'optimizer.learning_rate')


def describe(folders: Mapping[str, str | os.PathLike[str]]) -> str:
  """Returns a part of a report: each run's config and what it changes.

  Args:
    folders: Run folders by the name that the report gives them; {} = no part.
  """
  lines = []
  for name, folder in folders.items():
    config = checkpoint.read_config(folder)
    changed = config_io.changes(config_lib.base(), config)
    told = ', '.join(f'{field}={new!r}' for field, (_, new) in changed.items()
                     if field.startswith(_TOLD))
    lines.append(f'- `{name}`: config `{config.name}` with `{told}`\n')
  return ''.join(['\n## The runs\n\n', *lines] if lines else [])
