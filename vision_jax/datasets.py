"""The studies' data sets as deltas on `config.data`.

A config file calls `use(config, name)`; a user's own data set needs no entry
here, `--config.data.source=folders --config.data.path=...` is enough.
"""

import ml_collections

from vision_jax import config as config_lib

_BUTTERFLIES = dict(
    source='folders',
    path='butterflies',
    image_size=(128, 128),
    channels=3,
    hint='Kaggle gpiosenka/butterfly-images40-species, the 20 species of '
         'study 0 in the folders train, valid and test.',
)

_CALTECH101 = dict(
    source='folders',
    path='caltech101/101_ObjectCategories',
    # Study 2's majority, then its minority, in the order of its tables.
    classes=('airplanes', 'Faces', 'watch', 'Leopards', 'bonsai',
             'water_lilly', 'strawberry', 'wild_cat', 'binocular',
             'metronome'),
    image_size=(227, 227),
    channels=3,
    hint='data.caltech.edu, Caltech-101: the folder 101_ObjectCategories.',
)

_CHARACTERS = dict(
    source='folders',
    path='characters',
    image_size=(224, 224),
    channels=3,
    hint='Folders anime, cartoon and human, one image a file. The study took '
         'them from three Kaggle sets: ahmadahmadzada/images2000, '
         'diraizel/anime-images-dataset and an anime-cartoon-human set.',
)

DATASETS = {
    'digits': dict(source='digits', image_size=(8, 8), channels=1),
    'procedural': dict(source='procedural', image_size=(32, 32), channels=3),
    'butterflies': _BUTTERFLIES,
    'characters': _CHARACTERS,
    'caltech101': _CALTECH101,
}


def use(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets the fields of `config.data` for the data set `name`, in place.

  Raises:
    ValueError: If there is no such data set; the message lists them.
  """
  config.data.update(config_lib.choose('data', name, DATASETS))
