"""Study 3: the GAN as published, sound and modern, at equal budget.

    python -m experiments.jellyfish --root=../shared/data

All see the same originals (no stored augmentation) for the same number of
steps of the same batch. Every run's checkpoints are measured with one
extractor: Fréchet and kernel distance, precision, recall, density, coverage,
and whether samples lie nearer to the training images than held-out images do.
A run is judged at its end and at its best checkpoint, as found with samples of
other noise: little data is soon learnt by heart, and what comes after is worse.
The default fits two CPU cores (32 px, fewer steps); `--full` is the study's
64 px and 6,400 steps, three minutes a run where six share an H100:

    python -m experiments.jellyfish --root=../shared/data --full \
        --only=published-0,sound-0,modern-9 \
        --out=experiments/results/jellyfish_full
"""

import argparse
import json
import pathlib
import shlex
import sys

from configs import gan
from experiments import jellyfish_report
from experiments import tables
from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import loop
from vision_jax import modes
from vision_jax import results
from vision_jax import runs
from vision_jax import writers
from vision_jax.analysis import extractors
from vision_jax.analysis import gan_reports
from vision_jax.analysis import generative
from vision_jax.analysis import pictures

PROTOCOLS = ('published', 'sound', 'modern')
# Added to a run's seed: the noise that finds its best checkpoint.
_OTHER_NOISE = 1000
# Channels of the generator at 64 px; a smaller image needs fewer doublings.
_FEATURES = (256, 256, 256, 128)


def main(argv: list[str]) -> None:
  """Trains, measures every checkpoint and writes the report."""
  args = _parser().parse_args(argv)
  if args.full:
    args.size, args.steps = 64, 6400
  out = pathlib.Path(args.out)
  command = f'python -m experiments.jellyfish {shlex.join(argv)}'
  extractor = extractors.make(args.extractor, weights=args.weights)
  rows, best, curves, reals = [], [], [], {}
  for protocol, seed in _pairs(args):
    config = make_config(args, protocol, seed)
    folder = pathlib.Path(args.runs) / (
        f'{args.data}-{args.size}-{args.steps}-{protocol}-{seed}')
    print(folder, flush=True)
    result = loop.train(config, folder)
    run = runs.build(config)
    if not reals:
      reals = {name: extractor.rows(_images(run, name))
               for name in ('train', 'test')}
    points = measure(run, folder, reals, extractor, args)
    about = {'protocol': protocol, 'seed': seed}
    if all(row['protocol'] != protocol for row in rows):
      draw(run, folder, out, protocol)
    curves += [{**about, **point} for point in points]
    rows.append({**about, **points[-1], 'seconds': result['seconds']})
    best.append({**about, **min(
        points, key=lambda point: point['kid_other_noise'])})
    # After every run: a comparison that is stopped leaves its report.
    writers.write_csv(out / 'table.csv', rows)
    writers.write_csv(out / 'best.csv', best)
    writers.write_csv(out / 'curves.csv', curves)
    jellyfish_report.draw_curves(curves, out / 'kid.png')
    writers.write_text(out / 'report.md', jellyfish_report.report(
        command, args, rows, best, curves, extractor=extractor.name,
        machine=tables.machine(),
        images={name: len(x) for name, x in reals.items()}))
  print((out / 'report.md').read_text())


def _pairs(args) -> list[tuple[str, int]]:
  """Returns protocol and seed of each run, in their order.

  Raises:
    ConfigError: If `--only` names a run that cannot be.
  """
  if not args.only:
    return [(protocol, seed) for seed in range(args.seeds)
            for protocol in PROTOCOLS]
  pairs = []
  for word in args.only.split(','):
    protocol, _, seed = word.partition('-')
    if protocol not in PROTOCOLS or not seed.isdecimal():
      raise config_lib.ConfigError(
          f'--only={args.only}: {word!r} is not a protocol '
          f'({", ".join(PROTOCOLS)}) and a seed, such as sound-0.')
    pairs.append((protocol, int(seed)))
  return pairs


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m experiments.jellyfish')
  parser.add_argument('--root', required=True, help='folder of the data sets')
  parser.add_argument('--data', default='jellyfish',
                      choices=('jellyfish', 'butterflies'))
  parser.add_argument('--full', action='store_true',
                      help="the study's 64 px and 6,400 steps")
  parser.add_argument('--size', type=int, default=32, choices=(16, 32, 64))
  parser.add_argument('--steps', type=int, default=1500)
  parser.add_argument('--points', type=int, default=5,
                      help='checkpoints measured on the way')
  parser.add_argument('--seeds', type=int, default=1)
  parser.add_argument('--only', default='',
                      help='these runs alone, such as sound-0,modern-9')
  parser.add_argument('--samples', type=int, default=500)
  parser.add_argument('--extractor', default='efficientnet_lite0')
  parser.add_argument('--weights', default='published')
  parser.add_argument('--runs', default='runs/jellyfish')
  parser.add_argument('--out', default='experiments/results/jellyfish')
  return parser


def make_config(args, protocol: str, seed: int):
  """Returns the config of one run; the protocols share data and budget."""
  config = gan.get_config(f'data={args.data},protocol={protocol}')
  config.seed = seed
  config.data.root = args.root
  config.data.image_size = (args.size, args.size)
  config.gan.generator_features = _FEATURES[-(args.size // 8).bit_length():]
  config.data.exclude_pattern = gan.get_config(
      f'data={args.data}').data.exclude_pattern
  # The study's last batch of an epoch is smaller; here all see the same.
  config.train.remainder = 'drop'
  epochs = -(-args.steps // modes.describe(config)['steps_per_epoch'])
  every = max(1, epochs // args.points)
  return config_lib.replace(
      config, train__epochs=epochs, train__max_steps=args.steps,
      gan__preview_epochs=every, checkpoint__every_epochs=every,
      checkpoint__keep_last=args.points + 2)


def _images(run: runs.Run, split: str):
  return run.dataset.images[run.dataset.splits[split]] / 255.0


def measure(run: runs.Run, folder, reals, extractor, args):
  """Returns a row of measures for each checkpoint, and the final weights'.

  'kid_other_noise' is the kernel distance of as many other samples, for the
  choice of a checkpoint. Rows are kept in the run folder: a comparison that
  goes on repeats none.
  """
  about = {'extractor': extractor.name, 'samples': args.samples,
           'other_noise': _OTHER_NOISE}
  path = folder / 'measures.json'
  if path.is_file():
    kept = json.loads(path.read_text())
    if kept['about'] == about:
      return kept['rows']
  tree = {'state': runs.init_state(run),
          'sums': runs.replicate(run, run.task.train_sums.empty())}
  last = results.read(folder)['steps']
  states = {last: lambda: runs.load_state(run.task, run.config, folder)}
  rows = []
  with checkpoint.open_manager(folder, run.config.checkpoint) as manager:
    for step in manager.all_steps():
      states[step] = lambda step=step: checkpoint.restore(
          manager, tree, step=step)['state']
    for step, load in sorted(states.items()):
      state = load()
      fakes, others = (extractor.rows(gan_reports.draw(
          run.task.generator, state, count=args.samples,
          seed=run.config.seed + noise)) for noise in (0, _OTHER_NOISE))
      rows.append({
          'step': step, **compare(fakes, reals),
          'kid_other_noise': generative.kid(reals['train'], others).value})
  writers.write_json(path, {'about': about, 'rows': rows})
  return rows


def compare(fakes, reals) -> dict[str, float]:
  """Returns the measures of generated features against the real ones."""
  kid = generative.kid(reals['train'], fakes)
  return {
      'n_fake': len(fakes), 'n_real': len(reals['train']),
      'kid': kid.value, 'kid_low': kid.value - 1.96 * kid.error,
      'kid_high': kid.value + 1.96 * kid.error,
      'fd': generative.frechet(reals['train'], fakes),
      **generative.manifold_measures(reals['train'], fakes),
      **generative.memorisation(fakes, reals['train'], reals['test'])}


def draw(run: runs.Run, folder, out: pathlib.Path, protocol: str) -> None:
  """Writes a grid of the final weights' samples and their nearest images."""
  state = runs.load_state(run.task, run.config, folder)
  about = dict(step=results.read(folder)['steps'], seed=run.config.seed)
  samples = gan_reports.draw(
      run.task.generator, state, count=36, seed=run.config.seed)
  out.mkdir(parents=True, exist_ok=True)
  pictures.write_png(
      out / f'samples_{protocol}.png', pictures.tile(samples, columns=12),
      **about)
  gan_reports.neighbours(
      samples[:12], run.dataset.images[run.dataset.splits['train']],
      out / f'nearest_{protocol}.png', **about)


if __name__ == '__main__':
  main(sys.argv[1:])
