"""What study 0 claims, and whether the runs bear it out.

A claim is that some differences are positive: between two models on the same
test images, or between a measured value and a printed one. `verdict` compares
their 95 % intervals with the claim; nothing here is typed but the claims. Runs
and their comparison are experiments/butterflies_report.py's.
"""

import csv
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from experiments import butterflies_cells as cells_lib
from vision_jax import stats

_BEST, _TRANSFER_GAIN, _DENOISER_LOSS = .606, .36, .0315
_DIFFERENCES = {
    'accuracy': 'accuracy, {} - {}', 'macro_f1': 'macro F1, {} - {}',
    'relative': 'accuracy, {} / {} - 1'}
HOLDS, FAILS, OPEN = 'holds', 'does not hold', 'undecided'


class Evidence(NamedTuple):
  """One test of a claim: is `value` above `bound`?

  Attributes:
    what: What was compared.
    value: The estimate with its 95 % interval; None where it is not measured.
    bound: What the claim says it exceeds.
    at: At which part of the labels, where that is one of several.
    detail: The paired test behind it, or n.
  """
  what: str
  value: stats.Interval | None
  bound: float = 0.0
  at: str = ''
  detail: str = ''


class Measured(NamedTuple):
  """What the evidence comes from.

  Attributes:
    rows: A row per run, as in `table.csv`.
    pairs: A row per comparison, as in `pairs.csv`.
    results: Folder of the results of all experiments.
  """
  rows: list[dict[str, Any]]
  pairs: list[dict[str, Any]]
  results: pathlib.Path


class Claim(NamedTuple):
  """A claim of the study.

  Attributes:
    text: In one sentence.
    pairs: (better, worse): at each fraction `at`, `metric` of the first less
      that of the second exceeds `bound`.
    metric: accuracy, macro_f1 or relative, the ratio of accuracies less one.
    at: Fractions of labels.
    bound: See `pairs`.
    other: (Measured) -> evidence that is no comparison of the grid's runs.
  """
  text: str
  pairs: tuple[tuple[str, str], ...] = ()
  metric: str = 'accuracy'
  at: tuple[float, ...] = cells_lib.FRACTIONS
  bound: float = 0.0
  other: Callable[[Measured], list[Evidence]] = lambda measured: []


def judge(evidence: Evidence) -> str:
  """Returns whether one interval lies above, below or across its bound."""
  if evidence.value is None:
    return OPEN
  if evidence.value.low > evidence.bound:
    return HOLDS
  return FAILS if evidence.value.high < evidence.bound else OPEN


def verdict(found: list[Evidence]) -> str:
  """Returns HOLDS if all evidence does, FAILS if any does, else OPEN."""
  judged = [judge(evidence) for evidence in found]
  if FAILS in judged:
    return FAILS
  return HOLDS if judged and set(judged) == {HOLDS} else OPEN


def relative_gain(
    right_a: int, right_b: int, only_a: int, only_b: int) -> stats.Interval:
  """Returns accuracy A / accuracy B - 1 on the same examples, 95 %.

  Normal on the logarithm, whose variance by the delta method is
  (only_a + only_b) / (right_a right_b) for matched pairs.

  Args:
    right_a: Examples that A gets right; without any there is no interval.
    right_b: Likewise, B.
    only_a: Those that A alone gets right.
    only_b: Likewise, B.
  """
  if not right_a or not right_b:
    return stats.Interval(*[float('nan')] * 3)
  ratio = right_a / right_b
  factor = math.exp(1.96 * math.sqrt((only_a + only_b) / (right_a * right_b)))
  return stats.Interval(ratio - 1, ratio / factor - 1, ratio * factor - 1)


def gather(claim: Claim, measured: Measured) -> list[Evidence]:
  """Returns the evidence on a claim, what is missing included."""
  found = [_difference(pair, fraction, claim, measured.pairs)
           for pair in claim.pairs for fraction in claim.at]
  return found + claim.other(measured)


def _difference(pair, fraction: float, claim: Claim, pairs) -> Evidence:
  """Returns a pair's difference: over seeds where there are several."""
  a, b = pair
  what = _DIFFERENCES[claim.metric].format(a, b)
  at = f'{100 * fraction:g} %'
  rows = [row for row in pairs if not row['cut']
          and (row['A'], row['B'], row['labels']) == (a, b, fraction)]
  if not rows:
    return Evidence(what, None, claim.bound, at)
  if len(rows) == 1:
    value = stats.Interval(*(rows[0][f'{claim.metric}{end}']
                             for end in ('', '_low', '_high')))
  else:
    value = stats.mean_interval([row[claim.metric] for row in rows])
  tests = ', '.join(f'{row["mcnemar_p"]:.2g}' for row in rows)
  return Evidence(what, value, claim.bound, at,
                  f'n = {rows[0]["n"]}, McNemar p for each seed: {tests}')


def in_study(claim: Claim) -> str:
  """Returns how many of a claim's differences Table I itself shows."""
  study, shown = cells_lib.PUBLISHED, []
  for (a, b), fraction in ((p, f) for p in claim.pairs for f in claim.at):
    if (a, fraction) in study and (b, fraction) in study:
      place = claim.metric == 'macro_f1'
      ours, theirs = (study[m, fraction][place] for m in (a, b))
      value = ours / theirs - 1 if claim.metric == 'relative' else ours - theirs
      shown.append(value > claim.bound)
  return f'{sum(shown)} of {len(shown)}' if shown else ''


def _best_accuracy(measured: Measured) -> list[Evidence]:
  found = [row for row in measured.rows if not row['cut']
           and (row['model'], row['fraction']) == ('b1', 1.0)]
  value = _interval(found[0], 'accuracy', 'accuracy_low', 'accuracy_high'
                    ) if found else None
  if len(found) > 1:
    value = stats.mean_interval([row['accuracy'] for row in found])
  return [Evidence('accuracy of b1 with all labels', value, _BEST,
                   detail=f'{len(found)} seed(s)')]


def _interval(row: dict[str, Any], *names: str) -> stats.Interval:
  return stats.Interval(*(float(row[name]) for name in names))


def _read(measured: Measured, file: str, **match: str) -> list[dict[str, str]]:
  """Returns the rows with these values of another experiment's CSV file."""
  path = measured.results / file
  if not path.is_file():
    return []
  with path.open(newline='', encoding='utf-8') as opened:
    return [row for row in csv.DictReader(opened) if all(
        row[key] == value for key, value in match.items())]


def _denoising_loss(measured: Measured) -> list[Evidence]:
  what = f'{_DENOISER_LOSS} - squared error of the dense denoiser'
  found = []
  for row in _read(measured, 'denoising/restoration.csv',
                   noise='salt_pepper', method='dense'):
    low, high = (float(end) for end in row['mse 95 %'].strip('[]').split(','))
    value = stats.Interval(*(
        _DENOISER_LOSS - end for end in (float(row['mse']), high, low)))
    found.append(Evidence(what, value, detail=f'n = {row["n"]} noisy images'))
  return found or [Evidence(what, None)]


def _denoising_gain(measured: Measured) -> list[Evidence]:
  what = 'PSNR of the dense denoiser - that of a 3x3 median filter, dB'
  return [Evidence(what, _interval(row, 'gain', 'low', 'high'),
                   detail=f'n = {row["n"]}, paired by image')
          for row in _read(measured, 'denoising/restoration.csv',
                           noise='salt_pepper', method='dense')
          ] or [Evidence(what, None)]


def _small_denoisers(measured: Measured) -> list[Evidence]:
  """Hypothesis 2 with another encoder, on clean and noisy test images."""
  return [Evidence(
      'experiments.denoising, accuracy, denoiser - autoencoder, '
      f'{row["training"]}, test noise {row["test noise"]}',
      _interval(row, 'accuracy gain', 'low', 'high'),
      detail=f'n = {row["n"]}, McNemar p {float(row["McNemar p"]):.2g}')
          for row in _read(measured, 'denoising/pairs.csv',
                           **{'denoiser against': 'autoencoder'})]


def _latent_clusters(measured: Measured) -> list[Evidence]:
  what = 'adjusted mutual information of K-means (k = 20) and species'
  others = ''.join(
      f'; {name}: {float(row["ami"]):.3f}' for name in ('random', 'pixels')
      for row in _read(measured, 'latent/table.csv', encoder=name))
  return [Evidence(what, _interval(row, 'ami', 'ami_low', 'ami_high'),
                   detail=f'n = {row["n"]} test images{others}')
          for row in _read(measured, 'latent/table.csv', encoder='autoencoder')
          ] or [Evidence(what, None)]


CLAIMS = (
    Claim('The best model (B1, all labels) reaches an accuracy of 60.6 %.',
          other=_best_accuracy),
    Claim('Transfer learning is 36 % better than the model without it '
          '(the study divides by A at 10 % of the labels; here both have all).',
          (('b1', 'a'),), 'relative', (1.0,), _TRANSFER_GAIN),
    Claim('Hypothesis 1: what an autoencoder learned improves a classifier '
          'over the same one from scratch.',
          (('b1', 'a_matched'), ('b2', 'a_matched'))),
    Claim('Classifier A, from scratch, is the worst.',
          (('b1', 'a'), ('b2', 'a'))),
    Claim('B2, with an adjustable encoder, is significantly better than A.',
          (('b2', 'a'),)),
    Claim('B2 has the best F1.', (('b2', 'b1'), ('b2', 'a')), 'macro_f1'),
    Claim('B2 has the best F1 at 90/10, that is, 10 % of the labels, above '
          'all.', (('b2', 'b1'), ('b2', 'a')), 'macro_f1', (0.1,)),
    Claim('B1, with a frozen encoder, lies between A and B2.',
          (('b1', 'a'), ('b2', 'b1'))),
    Claim('Hypothesis 2: a denoising autoencoder\'s encoder is better for a '
          'classifier than a plain one\'s.',
          (('dae_b1', 'b1'), ('dae_b2', 'b2')), other=_small_denoisers),
    Claim('The denoising autoencoder reaches a mean loss of .0315.',
          other=_denoising_loss),
    Claim('The denoising autoencoder removes salt-and-pepper noise well enough '
          'for preprocessing.', other=_denoising_gain),
    Claim('t-SNE and K-means find useful patterns in the latent space '
          '(tested: K-means agrees with the species beyond chance).',
          other=_latent_clusters),
)


def conclusions(measured: Measured) -> tuple[list[dict[str, Any]], str]:
  """Returns a row per claim, and the page that says what they rest on."""
  rows, parts = [], []
  for number, claim in enumerate(CLAIMS, 1):
    found = gather(claim, measured)
    judged = [judge(evidence) for evidence in found]
    rows.append({
        'claim': number, 'text': claim.text, 'verdict': verdict(found),
        'tests': len(found), 'for': judged.count(HOLDS),
        'against': judged.count(FAILS),
        'not measured': sum(evidence.value is None for evidence in found),
        'differences in Table I': in_study(claim)})
    lines = ''.join(f'   - {line}\n' for line in _lines(found))
    parts.append(f'{number}. {claim.text} **{verdict(found)}**\n\n{lines}')
  return rows, '\n'.join(parts)


def _lines(found: list[Evidence]) -> list[str]:
  """Returns a line for each test, and one for what is not measured."""
  lines, missing = [], {}
  for evidence in found:
    if evidence.value is None:
      missing.setdefault(evidence.what, []).append(evidence.at)
      continue
    place = f' at {evidence.at}' if evidence.at else ''
    bound = f', against {evidence.bound:g}' if evidence.bound else ''
    lines.append(
        f'{evidence.what}{place}: {evidence.value.estimate:+.3f} '
        f'[{evidence.value.low:+.3f}, {evidence.value.high:+.3f}]{bound}: '
        f'{judge(evidence)} ({evidence.detail})')
  if missing:
    lines.append('not measured: ' + '; '.join(
        what + (f' at {", ".join(places)}' if any(places) else '')
        for what, places in missing.items()))
  return lines
