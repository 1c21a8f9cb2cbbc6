"""Study 0, experiment 1: Table I again, with what it lacked.

    python -m experiments.butterflies --root=../shared/data \
        --models=a_matched,b1,b2 --fractions=0.1,0.25 --cuts= --seeds=0,1,2
    python -m experiments.butterflies --root=../shared/data --report_only
    python -m experiments.butterflies --root=../shared/data \
        --protocol=published --out=experiments/results/butterflies_published

Trains every model at every fraction of labels and at the assignment's cuts,
and the autoencoders that they start from, each once. Then the files of
experiments/butterflies_report.py are written from the runs' own. Finished runs
are not repeated and a stopped one goes on. `--report_only` trains nothing and
lists the commands for what is missing. The study's budget is the default: with
128 px on two CPU cores an epoch of an autoencoder takes 75 seconds; then B1
takes half a minute at 10 % of the labels and 80 seconds with all, the others 2
to 5 and 10 to 20 minutes. The 15 fits of `published` take 20 minutes, for all
but the first stop after an epoch or five.
"""

import argparse
import itertools
import pathlib
import shlex
import sys

import ml_collections

from configs import backbone
from configs import semi_supervised
from configs import transfer
from experiments import butterflies_cells as cells_lib
from experiments import butterflies_report
from vision_jax import config as config_lib
from vision_jax import config_io
from vision_jax import loop
from vision_jax import pretraining
from vision_jax import results

_ENCODERS = pathlib.Path('runs') / 'pretrained'
# What was published is chained fits of the study's own models, where another
# one in between would change those after it; and configs/denoising.py has no
# encoder of the modern kind.
_MODELS = {
    'sound': cells_lib.MODELS,
    'published': ('a', 'b1', 'b2'),
    'modern': ('a_matched', 'b1', 'b2', 'lite0', 'fixmatch'),
}
_CUTS = {'sound': '0.1,0.3', 'published': '', 'modern': '0.1,0.3'}
# Two runs that differ in nothing else are one.
_FREE = ('name', 'report.', 'runtime.', 'checkpoint.', 'data.root',
         'data.cache_dir', 'data.hint', 'data.resident_megabytes')


def main(argv: list[str]) -> None:
  """Runs what is missing of the grid and writes the report."""
  args = _parser().parse_args(argv)
  cells = grid(args)
  root = pathlib.Path(args.runs) / args.protocol
  if not args.report_only:
    run_all(args, cells, root)
  folders = finished(cells, root)
  print(butterflies_report.write(
      folders, cells, protocol=args.protocol, out=pathlib.Path(args.out),
      sound=finished(cells, root.with_name('sound')),
      command=f'python -m experiments.butterflies {shlex.join(argv)}',
      remedies=remedies(args, [
          cell for cell in cells if cell.defined and cell not in folders])))


def finished(
    cells: list[cells_lib.Cell], root: pathlib.Path,
) -> dict[cells_lib.Cell, pathlib.Path]:
  """Returns the run folder below `root` of each cell that has ended."""
  return {cell: root / cell.name for cell in cells
          if results.exists(root / cell.name)}


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m experiments.butterflies')
  parser.add_argument('--root', required=True, help='folder of the data sets')
  parser.add_argument('--data', default='butterflies')
  parser.add_argument('--fractions', default=','.join(
      map(str, cells_lib.FRACTIONS)),
                      help='of labelled training images, as in Table I')
  parser.add_argument('--cuts', help="labelled fractions of the assignment's "
                      "cuts, '' = none; unless given, 0.1,0.3 (90/10 and "
                      '70/30), but none for the published protocol')
  parser.add_argument('--models', help='of those the protocol has; all of them '
                      f'unless given: {", ".join(cells_lib.MODELS)}')
  parser.add_argument('--seeds', default='0', help='each draws the labelled '
                      'images, the weights and the order of the batches')
  parser.add_argument('--protocol', default='sound', choices=tuple(_MODELS))
  parser.add_argument('--pretrain_epochs', type=int, default=30,
                      help='longest training of an autoencoder')
  parser.add_argument('--epochs', type=int, default=0,
                      help='longest training of a classifier; 0 = the config')
  parser.add_argument('--report_only', action='store_true',
                      help='write the report of the finished runs')
  parser.add_argument('--runs', default='runs/butterflies')
  parser.add_argument('--out', default='experiments/results/butterflies')
  return parser


def grid(args) -> list[cells_lib.Cell]:
  """Returns all cells that the flags ask for.

  Raises:
    ConfigError: For a model that the protocol does not have.
  """
  known = _MODELS[args.protocol]
  models = args.models.split(',') if args.models else known
  for model in models:
    config_lib.choose('models', model, {name: name for name in known})
  cuts = _CUTS[args.protocol] if args.cuts is None else args.cuts
  places = [(float(part), cut) for text, cut in (
      (args.fractions, False), (cuts, True))
            for part in text.split(',') if part]
  return [cells_lib.Cell(model, fraction, cut, int(seed))
          for (fraction, cut), model, seed in itertools.product(
              places, models, args.seeds.split(','))]


def run_all(args, cells: list[cells_lib.Cell], root: pathlib.Path) -> None:
  """Trains every cell that has not been, and refuses runs of other configs."""
  previous = ''
  # Without an autoencoder a cut is the same run as a fraction.
  runs = {cell.name: cell for cell in cells if cell.defined}
  for cell in runs.values():
    folder = root / cell.name
    config = make_config(args, cell)
    if args.protocol == 'published' and previous:
      # One early-stopping object served all fits of the study.
      config.published.switches += ('shared_callbacks',)
      config.published.callbacks_from = previous
    print(folder, flush=True)
    config = with_encoder(config, cell, train=not results.exists(folder))
    if results.exists(folder):
      check_same(folder, config)
    else:
      loop.train(config, folder)
    previous = str(folder)


def make_config(args, cell: cells_lib.Cell) -> ml_collections.ConfigDict:
  """Returns the config of one cell of the grid."""
  common = (f'data={args.data},fraction={cell.fraction},'
            f'protocol={args.protocol}')
  if cell.model == 'lite0':
    config = backbone.get_config(common)
  elif cell.model == 'fixmatch':
    # Epochs are of the unlabelled images: as many steps at every fraction.
    epochs = round(20 * 0.9 / (1 - cell.fraction))
    config = semi_supervised.get_config(f'{common},epochs={epochs}')
  else:
    config = transfer.get_config(
        f'{common},model={cell.model.removeprefix("dae_")}')
  if cell.model.startswith('dae_'):
    config.model.weights = (f'configs/denoising.py:data={args.data},model=unet,'
                            f'protocol={args.protocol}')
  if cell.model in cells_lib.PRETRAINED and args.pretrain_epochs != 30:
    config.model.weights += f',epochs={args.pretrain_epochs}'
  if args.epochs:
    config.train.epochs = args.epochs
  config.seed = config.data.split_seed = cell.seed
  config.data.root = args.root
  return config


def with_encoder(
    config: ml_collections.ConfigDict, cell: cells_lib.Cell, *,
    train: bool) -> ml_collections.ConfigDict:
  """Returns `config` with the folder of its autoencoder as `model.weights`.

  Args:
    config: Of `make_config`.
    cell: Its cell; at a cut the autoencoder sees the unlabelled images only,
      otherwise all training images, and one serves every draw of labels.
    train: Whether the autoencoder is trained where it has not been.
  """
  if cell.model not in cells_lib.PRETRAINED:
    return config
  needed = pretraining.config_of(config)
  needed.data.split_seed = cell.seed if cell.cut else 0
  if cell.cut:
    needed.train.split = 'unlabelled'
    needed.data.label_fraction = cell.fraction
  donor = pretraining.folder_of(needed, _ENCODERS)
  if train and not results.exists(donor):
    print(f'  on {donor}', flush=True)
    loop.train(needed, donor)
  return config_lib.replace(config, model__weights=str(donor))


def check_same(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
  """Raises ConfigError if a finished run was made with another config."""
  changed = {
      key: values for key, values in config_io.changes(
          cells_lib.read_config(folder), config).items()
      if not key.startswith(_FREE)}
  if changed:
    raise config_lib.ConfigError(
        f'{folder} was made with another config: ' + ', '.join(
            f'{key} was {old!r}, now {new!r}'
            for key, (old, new) in changed.items()) + '. Use another --runs.')


def remedies(args, missing: list[cells_lib.Cell]) -> list[str]:
  """Returns a command per model that trains its missing cells.

  The published protocol's fits hang together: it has one command for all.
  """
  names = list(dict.fromkeys(cell.model for cell in missing))
  if names and args.protocol == 'published':
    names, missing = [','.join(_MODELS['published'])], grid(args)
  commands = []
  for model in names:
    own = [cell for cell in missing if cell.model in model.split(',')]
    flags = {'models': model}
    for flag, cut in (('fractions', False), ('cuts', True)):
      flags[flag] = ','.join(dict.fromkeys(
          f'{cell.fraction:g}' for cell in own if cell.cut == cut))
    flags['seeds'] = ','.join(dict.fromkeys(str(cell.seed) for cell in own))
    for flag in ('data', 'protocol', 'pretrain_epochs', 'epochs', 'runs'):
      if getattr(args, flag) != _parser().get_default(flag):
        flags[flag] = getattr(args, flag)
    commands.append(shlex.join(
        ['python', '-m', 'experiments.butterflies', f'--root={args.root}'] + [
            f'--{flag}={value}' for flag, value in flags.items()]))
  return commands


if __name__ == '__main__':
  main(sys.argv[1:])
