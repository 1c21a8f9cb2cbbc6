"""The studies' data sets as deltas on `config.data`.

A config file calls `use(config, name)`; a user's own data set needs no entry
here: `--config.data.source=folders` and `--config.data.root=...`, with
`--config.data.path=...` where the images lie deeper, are enough.
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

_JELLYFISH = dict(
    source='folders',
    path='jellyfish',
    # Two thirds of the training files are stored augmentations, named
    # aug-<n>-<source>, of others in the same folder.
    exclude_pattern=r'/aug-\d+-[^/]*$',
    # Numbers of files repeat in other classes, and are then other images.
    group_pattern=(
        r'^(?P<folder>.*)/(?:aug-\d+-)?(?P<source>[^/]+)\.[^./]+$'),
    validation_fraction=0.0,
    image_size=(64, 64),
    channels=3,
    hint='Kaggle anshtanwar/jellyfish-types: the folders Train_Test_Valid/Train '
         'and test as jellyfish/train and jellyfish/test.',
)

_RARE_SPECIES = dict(
    source='csv',
    path='rare_species',
    csv_parent_columns=('kingdom', 'phylum'),
    image_size=(224, 224),
    channels=3,
    hint='BioCLIP rare species (Encyclopedia of Life), on Hugging Face as '
         'imageomics/rare-species: metadata.csv and the images at its '
         'file_path. The table alone serves --mode=describe.',
)

_CALTECH_FAMILIES = _RARE_SPECIES | dict(
    path='caltech_families',
    hint='A stand-in for rare_species: the animals of Caltech-101 in its '
         'layout, families assigned by hand.',
)

DATASETS = {
    'digits': dict(source='digits', image_size=(8, 8), channels=1),
    'procedural': dict(source='procedural', image_size=(32, 32), channels=3),
    'butterflies': _BUTTERFLIES,
    'characters': _CHARACTERS,
    'caltech101': _CALTECH101,
    'rare_species': _RARE_SPECIES,
    'caltech_families': _CALTECH_FAMILIES,
    'jellyfish': _JELLYFISH,
}


def use(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets the fields of `config.data` for the data set `name`, in place.

  Raises:
    ValueError: If there is no such data set; the message lists them.
  """
  config.data.update(config_lib.choose('data', name, DATASETS))
