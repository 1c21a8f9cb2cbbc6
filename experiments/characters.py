"""Study 1: its two heads compared one factor at a time.

    python -m experiments.characters --root=../shared/data --weights=

From model 1 to model 2 in single steps: without dropout, without BatchNorm,
with the wider first layer, with the second layer; the same epochs for all.
Then model 1 as the study evaluated it. The backbone runs once for all. With
`--weights=` (empty) VGG16 is random, which is good for plumbing and timing
and for nothing else; without it the published weights are needed. The
`characters` folder of the project's example data is a stand-in for the study's
three sets and nearly separable by its borders: no accuracy on it is a claim.
"""

import argparse
import pathlib
import shlex
import sys
from typing import Any

from configs import vgg16
from experiments import tables
from vision_jax import loop
from vision_jax import writers
from vision_jax.analysis import comparison

# Each step changes one thing of the one before it.
STEPS = {
    'model 1': ('flatten', 'dense:256', 'batch_norm', 'dropout:0.5'),
    'no dropout': ('flatten', 'dense:256', 'batch_norm'),
    'no BatchNorm': ('flatten', 'dense:256'),
    'model 2 (512 before it)': ('flatten', 'dense:512', 'dense:256'),
}


def main(argv: list[str]) -> None:
  """Runs the ladder and writes the report."""
  args = _parser().parse_args(argv)
  out = pathlib.Path(args.out)
  rows, folders = [], []
  for i, (name, head) in enumerate(STEPS.items()):
    folder = pathlib.Path(args.runs) / f'{i}-{name.split(" (")[0]}'
    config = make_config(args, 'sound', head)
    print(folder, flush=True)
    loop.train(config, folder)
    folders.append(folder)
    rows.append({'head': name, 'protocol': 'sound',
                 **tables.result_row(folder)})
  folder = pathlib.Path(args.runs) / 'published'
  config = make_config(args, 'published', STEPS['model 1'])
  # Cached as the others; what is published here is the evaluation.
  config.augment.views = 2
  loop.train(config, folder)
  rows.append({'head': 'model 1', 'protocol': 'published',
               **tables.result_row(folder)})
  writers.write_csv(out / 'table.csv', rows)
  writers.write_text(
      out / 'report.md', report(argv, args, rows, compare(folders)))
  print((out / 'report.md').read_text())


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m experiments.characters')
  parser.add_argument('--root', required=True, help='folder of the data sets')
  parser.add_argument('--weights', default='published',
                      help="weight file, 'published', or empty for random")
  parser.add_argument('--epochs', type=int, default=15)
  parser.add_argument('--image_size', type=int, default=224)
  parser.add_argument('--runs', default='runs/characters')
  parser.add_argument('--out', default='experiments/results/characters')
  return parser


def make_config(args, protocol: str, head: tuple[str, ...]):
  """Returns the config of one step of the ladder."""
  config = vgg16.get_config(f'data=characters,model=1,protocol={protocol}')
  config.data.root = args.root
  config.data.image_size = (args.image_size, args.image_size)
  config.model.weights = args.weights
  config.model.head = head
  config.train.epochs = args.epochs
  return config


def compare(folders: list[pathlib.Path]) -> list[dict[str, Any]]:
  """Compares each step with the one before it; they differ in the head."""
  rows = []
  names = list(STEPS)
  for i in range(1, len(folders)):
    found = comparison.compare(
        folders[i], folders[i - 1], fields=('model.head',))
    rows.append({
        'change': f'{names[i - 1]} → {names[i]}', 'n': found.n,
        'accuracy': found.accuracy.estimate,
        '95 %': f'[{found.accuracy.low:+.3f}, {found.accuracy.high:+.3f}]',
        'McNemar p': found.test.p_value})
  return rows


def report(argv, args, rows, changes) -> str:
  """Returns the Markdown report; every number comes from the runs."""
  weights = '' if args.weights else '\nVGG16 with random weights.'
  return f"""# Characters: one factor at a time

Command: `python -m experiments.characters {shlex.join(argv)}`

Machine: {tables.machine()}. The images are a stand-in for the study's sets,
nearly separable by borders and resolution: read the table for plumbing and
timing, and for what the evaluation of `published` says of another fit of
model 1, not for how well characters are told apart.{weights}

{tables.markdown(rows)}
## Each change on the same test images

{tables.markdown(changes)}"""


if __name__ == '__main__':
  main(sys.argv[1:])
