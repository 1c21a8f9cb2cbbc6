"""The fields of `config.data` and `config.augment`; `config.base()` has them.

Values only; what they do lives in the data room.
"""

import ml_collections


def data() -> ml_collections.ConfigDict:
  """Returns `config.data`."""
  return ml_collections.ConfigDict(dict(
      # digits, procedural, line, cosine, folders, csv or tfds:<name>.
      source='digits',
      root='',  # Folder of all data sets; '' = variable VISION_JAX_DATA.
      path='',  # Folder of this data set below root.
      csv_file='metadata.csv',  # csv: table below path.
      csv_path_column='file_path',  # csv: column of image paths.
      csv_label_column='family',  # csv: column of labels.
      # csv: columns of the labels' ancestors, the highest first; class names
      # are then paths such as animalia/chordata/felidae.
      csv_parent_columns=(),
      classes=(),  # Class names to keep; () = all.
      # Regex on ids; what its named groups, else its group 1, capture never
      # straddles a split.
      group_pattern='',
      exclude_pattern='',  # Regex on ids to leave out.
      image_size=(8, 8),  # Height and width in pixels.
      channels=1,  # 1 or 3.
      resize='squash',  # squash, or crop (short side, then centre).
      test_fraction=0.2,  # Where the source has no test split of its own.
      validation_fraction=0.15,  # Of the labelled training examples.
      # class: down in each class, and nested in label_fraction; total: up,
      # once for all classes together.
      validation_rounding='class',
      label_fraction=1.0,  # Of the training pool; the rest is unlabelled.
      split_seed=0,  # Splits follow from it alone.
      imbalance=ml_collections.ConfigDict(dict(
          kind='none',  # step or long_tail: data/imbalance.py makes the splits.
          ratio=1.0,  # Size of the largest class over the smallest.
          minority_share=0.5,  # step: share of the classes in the minority.
          total=320,  # Examples of the set where it is balanced.
          fixed='total',  # What a ratio leaves alone: total or majority.
          test='balanced',  # balanced, or own: as imbalanced as training.
          test_per_class=10,  # Examples a class of the balanced test.
      )),
      # On every image of every split: none, greyscale, circle,
      # peripheral_blur, masks or rembg (data/filters.py).
      filter='none',
      masks='',  # masks: folder of masks, <id>.png, white where kept.
      screened='',  # Table of ids to drop from all splits (data/screening.py).
      on_bad_file='skip',  # skip (reported by name) or refuse.
      # Copies across splits: refuse, warn, or ignore (data that repeats).
      duplicates='refuse',
      max_pixels=100_000_000,  # Larger images are bad files.
      cache_dir='',  # Decoded images; '' = the user's cache folder.
      resident_megabytes=2048,  # Larger data streams from the cache.
      procedural_examples=512,  # procedural, line, cosine: number of images.
      procedural_classes=4,  # procedural: number of classes.
      hint='',  # Where to get the data; shown when it is missing.
  ))


def augment() -> ml_collections.ConfigDict:
  """Returns `config.augment` and others of its kind; all off."""
  return ml_collections.ConfigDict(dict(
      views=0,  # Fixed variants an image; 0 = fresh ones every epoch.
      flip_horizontal=False,
      flip_vertical=False,
      rotation=0.0,  # Largest angle, degrees.
      translation=0.0,  # Largest shift, fraction of the side.
      zoom=0.0,  # Largest change of scale, fraction.
      crop_padding=0,  # Pixels of reflected border before a random crop.
      brightness=0.0,  # Colour jitter strengths.
      contrast=0.0,
      saturation=0.0,
      hue=0.0,
      cutout=0.0,  # Side of the erased square, fraction of the image's.
      salt_pepper_salt=0.0,  # Rate of white pixels.
      salt_pepper_pepper=0.0,  # Rate of black pixels.
      gaussian_noise=0.0,  # Standard deviation; images are in [0, 1].
      mixup_alpha=0.0,  # Beta parameter; 0 = off.
      remix_kappa=0.0,  # mixup: a label so much rarer takes all; 0 = off.
      cutmix_alpha=0.0,
  ))
