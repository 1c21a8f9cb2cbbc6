"""The report of experiments/jellyfish.py, in words computed from its rows."""

import collections
import pathlib

import numpy as np

from experiments import tables
from vision_jax import stats
from vision_jax.analysis import figures

# Of the runs with which configs/gan.py was made.
_TUNED = 9
# The later of two should be the better.
_PAIRS = (('published', 'sound'), ('sound', 'modern'))


def draw_curves(rows, path: pathlib.Path) -> None:
  """Draws the kernel distance of each first seed over the steps."""
  series, seeds = {}, _first_seeds(rows)
  for row in rows:
    if row['seed'] == seeds[row['protocol']]:
      series.setdefault(row['protocol'], []).append(
          (row['step'], row['kid'], row['kid_low'], row['kid_high']))
  figures.interval_plot(
      series, path, xlabel='step', ylabel='kernel distance (lower is better)',
      references={})


def _first_seeds(rows) -> dict[str, int]:
  """Returns the seed of each protocol's first run."""
  found = {}
  for row in rows:
    found.setdefault(row['protocol'], row['seed'])
  return found


def verdicts(rows) -> list[str]:
  """Says for each later protocol whether it beats the one before it.

  With one seed by the intervals over images, which must not overlap; with more
  also by the Student interval of the paired difference over seeds.
  """
  lines = []
  for worse, better in _PAIRS:
    pick = lambda name: sorted(
        (row for row in rows if row['protocol'] == name),
        key=lambda row: row['seed'])
    old, new = pick(worse), pick(better)
    count = min(len(old), len(new))
    if not count:
      continue  # A comparison that was stopped.
    old, new = old[:count], new[:count]
    apart = all(b['kid_high'] < a['kid_low'] for a, b in zip(old, new))
    words = (f'`{better}` {"has" if apart else "does not have"} a lower kernel '
             f'distance than `{worse}` outside both intervals')
    if count > 1:
      gap = stats.mean_interval(
          np.array([b['kid'] for b in new]) - [a['kid'] for a in old])
      words += (f' in every seed; mean difference over {count} seeds '
                f'{gap.estimate:+.3g} [{gap.low:+.3g}, {gap.high:+.3g}]')
    lines.append(f'- {words}.')
  return lines


def along(curves) -> list[str]:
  """Says at which measured steps a protocol beats the one before it."""
  found = {(row['protocol'], row['seed'], row['step']): row for row in curves}
  lines = []
  for worse, better in _PAIRS:
    both = sorted(key[1:] for key in found
                  if key[0] == better and (worse, *key[1:]) in found)
    won = [step for seed, step in both
           if found[better, seed, step]['kid_high']
           < found[worse, seed, step]['kid_low']]
    if both:
      lines.append(
          f'- On the way `{better}` is lower than `{worse}` outside both '
          f'intervals at {len(won)} of {len(both)} measured points: '
          f'{", ".join(map(str, won)) or "none"}.')
  return lines


def _unchosen(curves) -> str:
  """Names the runs that were measured once, so that nothing was chosen."""
  counts = collections.Counter(
      (row['protocol'], row['seed']) for row in curves)
  names = [f'`{protocol}-{seed}`' for (protocol, seed), count
           in counts.items() if count == 1]
  if not names:
    return ''
  return (f' (of {" and ".join(names)} one point was measured: there nothing '
          'was chosen)')


def report(
    command: str, args, rows, best, curves, *, extractor, machine, images,
) -> str:
  """Returns the Markdown report; every number comes from its rows.

  Args:
    command: That made it.
    args: Its flags.
    rows: Measures of each run's last weights.
    best: Those of the checkpoint that other noise found best.
    curves: Those of every checkpoint.
    extractor: Name of the features.
    machine: In words.
    images: Their number by split.
  """
  names = ('protocol', 'seed', 'step', 'kid', 'kid_low', 'kid_high', 'fd',
           'precision', 'recall', 'density', 'coverage', 'fakes_nearer',
           'n_fake', 'n_real')
  table = lambda rows: tables.markdown(
      [{name: row[name] for name in names} for row in rows])
  smaller = '' if args.full else (
      f' The study has 64 px and 6,400 steps: this is {args.size} px and '
      f'{args.steps} steps, and `--full` runs the rest.')
  pictures = '\n'.join(
      f'`{name}`, seed {seed}, at the end: samples, and twelve of them above '
      f'their nearest training images by pixels.\n\n'
      f'![](samples_{name}.png)\n\n![](nearest_{name}.png)\n'
      for name, seed in _first_seeds(rows).items())
  return f"""# A GAN on {args.data}: published, sound and modern

Command: `{command}`

Machine: {machine}; training took {sum(r['seconds'] for r in rows):.0f} s in
all, beside other work. All runs see the same {images['train']} originals for {args.steps} steps
of 16.{smaller} Features: {extractor}. The distances compare {args.samples}
samples with the training images; they are no FID, whose features are
Inception's. `kid` has its 95 % jackknife interval over images. `fakes_nearer`
is the share of (sample, test image) pairs in which the sample lies nearer to
the training set: .5 is honest, 1 is a copy (n = {images['test']} test images).

At the end:

{table(rows)}
{chr(10).join(verdicts(rows))}

At each run's best checkpoint, which {args.samples} samples of other noise \
chose{_unchosen(curves)}:

{table(best)}
{chr(10).join(verdicts(best) + along(curves))}

The interval is of these weights: it does not contain what another training
with another seed, or another checkpoint, would change. The rule of the best
checkpoint was added after a run with seed 0 at 32 px had been seen, so that of
that seed it is no independent evidence. The fields of `modern` were chosen with
seed {_TUNED} at 32 px.

![](kid.png)

{pictures}"""
