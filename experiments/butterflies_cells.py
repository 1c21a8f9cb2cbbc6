"""The grid of study 0: its models, its cells, Table I, and configs of runs.

Runs of an older version, whose configs lack newer fields, are read as well.
Trains nothing.
"""

import json
import pathlib
from typing import NamedTuple

import ml_collections

from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import config_io

FRACTIONS = (0.1, 0.25, 0.5, 0.75, 1.0)
# Table I of the study, by (model, fraction of labels): test accuracy and macro
# F1; n = 500. Its F1 is a mean over batches of few classes, too low.
PUBLISHED = {
    ('a', 0.1): (.444, .1428), ('b1', 0.1): (.396, .1336),
    ('b2', 0.1): (.198, .0858), ('a', 0.25): (.288, .0994),
    ('b1', 0.25): (.410, .1608), ('b2', 0.25): (.294, .1328),
    ('a', 0.5): (.458, .1547), ('b1', 0.5): (.448, .1516),
    ('b2', 0.5): (.488, .1760), ('a', 0.75): (.520, .1666),
    ('b1', 0.75): (.562, .1853), ('b2', 0.75): (.564, .1632),
    ('a', 1.0): (.540, .1919), ('b1', 1.0): (.606, .2210),
    ('b2', 1.0): (.566, .1856),
}
# The study's and ours, in the order of the tables.
MODELS = ('a', 'a_matched', 'b1', 'b2', 'dae_b1', 'dae_b2', 'lite0', 'fixmatch')
# Those that differ in their encoder's weights alone.
SAME_NETWORK = ('a_matched', 'b1', 'b2', 'dae_b1', 'dae_b2')
PRETRAINED = ('b1', 'b2', 'dae_b1', 'dae_b2')


class Cell(NamedTuple):
  """A place in the grid.

  Attributes:
    model: One of MODELS.
    fraction: Of labelled training images.
    cut: Whether it is one of the assignment's cuts, where an autoencoder sees
      the unlabelled images only; in Table I it sees all.
    seed: Of the classifier and of the draw of labelled images.
  """
  model: str
  fraction: float
  cut: bool
  seed: int

  @property
  def name(self) -> str:
    """Its run folder; a cut matters to models with an autoencoder only."""
    own = '-unlabelled' if self.cut and self.model in PRETRAINED else ''
    return f'{self.model}-{self.fraction:g}{own}-seed{self.seed}'

  @property
  def labels(self) -> str:
    """Its column: labelled %, or the cut as unlabelled/labelled."""
    percent = f'{100 * self.fraction:g}'
    return (f'{100 - 100 * self.fraction:g}/{percent}' if self.cut
            else f'{percent} %')

  @property
  def defined(self) -> bool:
    """FixMatch needs unlabelled images."""
    return self.model != 'fixmatch' or self.fraction < 1


def read_config(folder: str | pathlib.Path) -> ml_collections.ConfigDict:
  """Returns a run's config; a field newer than the run has its default.

  Raises:
    ConfigError: If there is no config.json, or a field is unknown.
  """
  path = pathlib.Path(folder) / 'config.json'
  if not path.is_file():
    return checkpoint.read_config(folder)
  stored = config_io.flatten(ml_collections.ConfigDict(
      json.loads(path.read_text())))
  config = config_lib.base()
  unknown = sorted(set(stored) - set(config_io.flatten(config)))
  if unknown:
    raise config_lib.ConfigError(
        f'{path} has fields of another version: {", ".join(unknown)}. Train '
        'the run again in another --runs.')
  config.update_from_flattened_dict(stored)
  return config
