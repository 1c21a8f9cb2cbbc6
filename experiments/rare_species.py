"""Study 4: sound, published and modern; then ensembles and the taxonomy.

    python -m experiments.rare_species --root=../shared/data
    python -m experiments.rare_species --root=/my/data --data=rare_species \
        --models=efficientnet_b0,mobilenet_v2,resnet50,densenet121,vgg16

The first of `--models` also gets what the study left for the future: a
hierarchical head, metadata as an input, a weighted ensemble, averaged weights,
and losses for the tail. A model whose weight file is missing is named in the
report and left out. Finished runs in `--runs` are not repeated. The report's
own part is rare_species_report.py, the error pages are rare_species_errors.py;
filters, search and screening have scripts of their own beside this one.
"""

import argparse
import pathlib
import sys
import time
from typing import Any

import numpy as np

from configs import rare_species as rare_species_config
from experiments import rare_species_errors
from experiments import rare_species_report
from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import ensembles
from vision_jax import loop
from vision_jax import results
from vision_jax.analysis import errors
from vision_jax.data import cache
from vision_jax.data import pipeline
from vision_jax.data import taxonomy

# name: (config argument, changed fields).
_EVERY_MODEL = {
    'sound': ('protocol=sound', {}),
    'published': ('protocol=published', {}),
    'modern': ('protocol=modern', {}),
}
_FIRST_MODEL = {
    'hierarchical head': ('taxonomy=hierarchical', {}),
    'fusion': ('taxonomy=fusion', {}),
}
_SOUP = {'modern, rate / 2': 0.5, 'modern, rate x 2': 2.0}
_LOSSES = {
    'cross-entropy': {'loss__name': 'cross_entropy'},
    'inverse weights': {'loss__name': 'cross_entropy',
                        'loss__weights': 'inverse',
                        'loss__reduction': 'examples'},
    'focal': {'loss__name': 'focal'},
    'LDAM': {'loss__name': 'ldam'},
    'logit adjustment': {'loss__name': 'logit_adjusted'},
}
_MEMBERS = ('sound', 'modern', 'hierarchical head')


def main(argv: list[str]) -> None:
  """Trains what is missing and writes the report."""
  args = _parser().parse_args(argv)
  began, models = time.perf_counter(), args.models.split(',')
  folders, missing, cold, before = {}, {}, _is_cold(args, models[0]), 0
  for model in models:
    try:
      for name, config in settings(args, model, first=model == models[0]):
        folder = pathlib.Path(args.runs) / args.data / model / _slug(name)
        print(folder, flush=True)
        before += results.exists(folder)
        loop.train(config, folder)
        folders[model, name] = folder
    except config_lib.ConfigError as error:
      if 'config.model.weights' not in str(error) or model == models[0]:
        raise
      missing[model] = str(error)
  out = pathlib.Path(args.out)
  answers = answer(folders, models[0])
  sound = folders[models[0], 'sound']
  rare_species_errors.write(
      sound, out / 'errors', command=rare_species_errors.command(sound, out))
  rare_species_report.write(
      args, argv, answers=answers, folders=folders, missing=missing,
      losses=tuple(_LOSSES), seconds=time.perf_counter() - began, cold=cold,
      before=before)


def _is_cold(args, model: str) -> bool:
  """Whether the cache folder holds nothing but weights of publishers."""
  folder = cache.folder_of(_config(args, model, 'protocol=sound').data)
  return all(path.name == 'weights' for path in folder.iterdir())


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m experiments.rare_species')
  parser.add_argument('--root', required=True, help='folder of the data sets')
  parser.add_argument('--data', default='caltech_families',
                      choices=('caltech_families', 'rare_species'))
  parser.add_argument('--models', default='efficientnet_lite0',
                      help='names of backbones; the first is studied in full')
  parser.add_argument('--size', type=int, default=224, help='pixels a side')
  parser.add_argument('--runs', default='runs/rare_species')
  parser.add_argument('--out', default='experiments/results/rare_species')
  return parser


def settings(args, model: str, *, first: bool):
  """Yields (name, config) of every run of a model, in the order they run."""
  grid = {**_EVERY_MODEL, **(_FIRST_MODEL if first else {})}
  # What the study gave all its networks is nearly Lite0's own preprocessing,
  # so that this one is given VGG16's; the others get their own back.
  other = 'vgg16' if model == 'efficientnet_lite0' else model
  if model != 'mobilenet_v2':
    grid[f'published, preprocessing of {other}'] = (
        'protocol=published', {'published__preprocess_of': other})
  for name, (arg, fields) in grid.items():
    yield name, _config(args, model, arg, **fields)
  if not first:
    return
  modern = _config(args, model, 'protocol=modern')
  rate = modern.optimizer.learning_rate
  for name, factor in _SOUP.items():
    yield name, config_lib.replace(
        modern, optimizer__learning_rate=factor * rate)
  for name, fields in _LOSSES.items():
    yield f'modern, {name}', config_lib.replace(modern, **fields)


def _config(args, model: str, arg: str, **fields):
  config = rare_species_config.get_config(
      f'data={args.data},model={model},{arg}')
  return config_lib.replace(
      config, data__root=args.root, data__image_size=(args.size, args.size),
      report__progress=False, report__figures=False, **fields)


def _slug(name: str) -> str:
  return ''.join(c if c.isalnum() else '_' for c in name).replace('__', '_')


def answer(folders, first: str) -> dict[str, dict[str, Any]]:
  """Returns test outputs by name; `information` says what they were told.

  The ensemble's weights are chosen on the validation examples.
  """
  found = {}
  def keep(name, outputs, information='image', **extra):
    found[name] = {**outputs['test'], 'information': information, **extra}
    return outputs
  for (model, name), folder in folders.items():
    short = name if model == first else f'{model}, {name}'
    if name != 'fusion' and not name.startswith('modern, '):
      keep(short, _tested(folder))
  _combine(folders, first, keep)
  fusion = folders[first, 'fusion']
  keep('fusion', _tested(fusion), 'image and phylum')
  keep('fusion, metadata missing', ensembles.answers(
      fusion, hide_context=True))
  told = folders[first, 'hierarchical head']
  outputs = ensembles.answers(told)
  data = pipeline.load(checkpoint.read_config(told).data)
  outputs['test']['probabilities'] = taxonomy.restrict(
      outputs['test']['probabilities'],
      data.context[outputs['test']['id']], data.class_names)
  keep('hierarchical head, told the phylum', outputs, 'image and phylum')
  for name in _LOSSES:
    keep(name, _tested(folders[first, f'modern, {name}']))
  keep('balanced softmax', _tested(folders[first, 'modern']))
  return found


def _tested(folder: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
  """Returns the test outputs that a run has written."""
  found = errors.read(folder)
  return {'test': {
      'label': found.labels, 'probabilities': found.probabilities}}


def _combine(folders, first, keep) -> None:
  """Adds the mean of probabilities and the mean of weights."""
  members = {name: ensembles.answers(folders[first, name])
             for name in _MEMBERS}
  stack = lambda split: np.stack(
      [each[split]['probabilities'] for each in members.values()])
  labels = next(iter(members.values()))['validation']['label']
  weights = ensembles.choose_weights(stack('validation'), labels)
  some = next(iter(members.values()))['test']
  keep('ensemble', {'test': {
      **some, 'probabilities': ensembles.mix(stack('test'), weights)}},
       weights=dict(zip(_MEMBERS, weights.tolist(), strict=True)))
  soup = [folders[first, name] for name in ('modern', *_SOUP)]
  keep('averaged weights', ensembles.answers(
      soup[0], variables=ensembles.average_weights(soup)))


if __name__ == '__main__':
  main(sys.argv[1:])
