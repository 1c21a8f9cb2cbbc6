"""Tables and the figure of benchmark results; every number is from the JSON."""

import math
import pathlib
from typing import Any

from experiments import benchmark_worker
from experiments import tables
from vision_jax import writers
from vision_jax.analysis import figures

_FORMS = {
    'eager': 'PyTorch as it is',
    'compiled': 'torch.compile',
    'keras': 'Keras 3 on TensorFlow, the step one graph',
    'keras_xla': 'the same compiled by XLA',
}


def write(results: dict[str, Any], out: pathlib.Path) -> None:
  """Writes results.json, report.md, table.md and ratios.png."""
  writers.write_json(out / 'results.json', results)
  writers.write_text(out / 'report.md', report(results))
  writers.write_text(out / 'table.md', short_table(results))
  draw(results, out / 'ratios.png')


def geometric_mean(results: dict[str, Any]) -> float:
  """Returns the geometric mean of the ratios; NaN where there are none."""
  ratios = [row['ratio'] for row in results['workloads'].values()
            if 'ratio' in row]
  if not ratios:
    return math.nan
  return math.exp(sum(map(math.log, ratios)) / len(ratios))


def short_table(results: dict[str, Any]) -> str:
  """Returns the README's table: a row a workload, each library at its best."""
  rows = []
  for name, row in results['workloads'].items():
    rows.append({
        'workload': name, 'batch': row['batch'],
        'ours, ms': _digits(row['ours_ms']),
        **{f'{library}, ms': _best(row, library)
           for library in _libraries(results)},
        'peer / ours': f'{row["ratio"]:.2f}' if 'ratio' in row else '',
        'images/s': _digits(row['images_per_second'])})
  return tables.markdown(rows)


def report(results: dict[str, Any]) -> str:
  """Returns the Markdown report."""
  sides = ('ours', *_forms(results))
  times, costs, equal, failed = [], [], [], []
  for name, row in results['workloads'].items():
    times.append({'workload': name, **{
        side: _with_quartiles(row, side) for side in sides},
        'ratio': f'{row["ratio"]:.2f}' if 'ratio' in row else ''})
    costs.append({
        'workload': name, 'images/s': _digits(row['images_per_second']),
        'GFLOP': _value(row, 'gflop'),
        'share of peak': _value(row, 'share_of_peak'),
        **{side: f'{_value(row, f"{side}_compile_s")} s, '
                 f'{_value(row, f"{side}_peak_mb")} MB'
           for side in sides if f'{side}_ms' in row}})
    equal.append({'workload': name, **{
        f'{library}, {kind}': f'{value:.1e}'
        for library, found in row['differences'].items()
        for kind, value in found.items()}})
    failed += [f'- {name}, {side}: `{_last_line(row[f"{side}_error"])}`'
               for side in sides if f'{side}_error' in row]
  text = f"""# Training steps against {' and '.join(_libraries(results))}

Command: `{results['command']}`

Machine: {results['machine']}; a product of two large matrices runs at
{results['peak_gflops']:.0f} GFLOP/s there. {results['dtype']};
{results['seconds']:.0f} s in all. Load average at the start:
{results['load_average']:.1f}; times mean little where it is not near 0.

Milliseconds a step: the median over turns, with its quartiles. Forms:
{'; '.join(f'{form}: {_FORMS[form]}' for form in sides[1:])}. A ratio above 1
means that we are faster than the fastest form of all. Geometric mean:
{geometric_mean(results):.2f}.

{tables.markdown(times)}
The same as ratios; the number at the right is the fastest peer's:

![ratios](ratios.png)

Seconds of the first step beyond the second, which is compilation, and the
memory that a process took beyond its imports. Operations are those of the
products that PyTorch counts in its own step, a multiplication and an addition
being two.

{tables.markdown(costs)}
Before anything is timed, each library takes one step from our weights without
dropout and noise: the relative differences of its loss and of the worst
tensor's gradient from ours. In bfloat16 gradients at random weights are mostly
rounding, so only the loss is compared.

{tables.markdown(equal)}"""
  if failed:
    text += '\nWhat did not run:\n\n' + '\n'.join(failed) + '\n'
  return text


def draw(results: dict[str, Any], path: pathlib.Path) -> None:
  """Writes a dot a form: its time over ours, by workload, with a line at 1."""
  rows = {name: row for name, row in results['workloads'].items()
          if 'ratio' in row}
  if not rows:
    return
  fig, axes = figures.grid_figure(1, 1, size=(6.8, 0.36 * len(rows) + 1.3))
  ax, names = axes[0], list(rows)[::-1]
  for i, name in enumerate(names):
    ax.axhline(i, color='0.9', linewidth=1, zorder=0)
    ax.annotate(f'{rows[name]["ratio"]:.2f}', (1.02, i), fontsize=9,
                xycoords=ax.get_yaxis_transform(), va='center')
  for form, color, marker in zip(_FORMS, figures.COLORS, 'osD^'):
    dots = [(rows[name][f'{form}_ms'] / rows[name]['ours_ms'], i)
            for i, name in enumerate(names) if f'{form}_ms' in rows[name]]
    if dots:
      ax.scatter(*zip(*dots), s=28, color=color, marker=marker, label=form)
  ax.axvline(1, color='black', linewidth=1)
  ax.set_yticks(range(len(names)), names)
  ax.set_ylim(-0.6, len(names) - 0.4)
  ax.set(xscale='log', xlabel=f'time of a step in {results["dtype"]} / ours '
         '(log scale; further right = slower)')
  ax.annotate('fastest\npeer', (1.02, len(names) - 0.3), fontsize=8,
              xycoords=ax.get_yaxis_transform())
  low, high = ax.get_xlim()
  ax.set_xlim(min(low, 0.8), max(high, 2.6))
  _label_ratios(ax)
  ax.legend(fontsize=8, ncols=4, loc='lower center', bbox_to_anchor=(0.5, 1))
  figures.save(fig, path)


def _label_ratios(ax) -> None:
  """Labels a logarithmic axis, a short one finely."""
  low, high = ax.get_xlim()
  wide = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
  ticks = [x for x in ((0.5, 0.8, 1, 1.25, 1.5, 2, 2.5, 3, 4) if high < 5 else
                       wide) if low <= x <= high]
  ax.set_xticks(ticks, [f'{x:g}' for x in ticks])
  ax.minorticks_off()


def _forms(results) -> list[str]:
  """Returns the forms that ran or failed, in their usual order."""
  return [form for form in _FORMS if any(
      f'{form}_{end}' in row for row in results['workloads'].values()
      for end in ('ms', 'error'))]


def _libraries(results) -> list[str]:
  return list(dict.fromkeys(
      benchmark_worker.PEERS[form].library for form in _forms(results)))


def _best(row, library: str) -> str:
  """Returns the time of a library's fastest form and the form's name."""
  own = {form: row[f'{form}_ms'] for form, peer in
         benchmark_worker.PEERS.items()
         if peer.library == library and f'{form}_ms' in row}
  if not own:
    return ''
  form = min(own, key=own.get)
  return f'{_digits(own[form])} ({form})'


def _digits(value: float) -> str:
  return f'{value:.3g}' if value < 1000 else f'{value:.0f}'


def _value(row, key: str) -> str:
  return _digits(row[key]) if key in row else ''


def _with_quartiles(row, side: str) -> str:
  if f'{side}_ms' not in row:
    return ''
  middle, low, high = (
      _digits(row[f'{side}_ms{end}']) for end in ('', '_low', '_high'))
  return f'{middle} [{low}, {high}]'


def _last_line(text: str) -> str:
  return text.splitlines()[-1]
