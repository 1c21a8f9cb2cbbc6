"""Tables and the figure of benchmark results; every number is from the JSON."""

import math
import pathlib
from typing import Any

from experiments import tables
from vision_jax import writers
from vision_jax.analysis import figures


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
  """Returns the README's table: a row a workload."""
  rows = []
  for name, row in results['workloads'].items():
    best = f'{row["best_peer"]}_ms' if 'best_peer' in row else None
    rows.append({
        'workload': name, 'batch': row['batch'],
        'ours, ms': _digits(row['ours_ms']),
        'PyTorch, ms': _digits(row[best]) if best else '',
        'form': row['best_peer'] if best else '',
        'PyTorch / ours': f'{row["ratio"]:.2f}' if best else '',
        'images/s': _digits(row['images_per_second'])})
  return tables.markdown(rows)


def report(results: dict[str, Any]) -> str:
  """Returns the Markdown report."""
  sides = ('ours', 'eager', 'compiled')
  times, costs, failed = [], [], []
  for name, row in results['workloads'].items():
    times.append({'workload': name, **{
        side: _with_quartiles(row, side) for side in sides},
        'ratio': f'{row["ratio"]:.2f}' if 'ratio' in row else ''})
    costs.append({
        'workload': name, 'images/s': _digits(row['images_per_second']),
        'GFLOP': _value(row, 'gflop'),
        'share of peak': _value(row, 'share_of_peak'),
        **{f'compile {side}, s': _value(row, f'{side}_compile_s')
           for side in sides},
        **{f'memory {side}, MB': _value(row, f'{side}_peak_mb')
           for side in sides},
        'loss differs by': f'{row["loss_difference"]:.1e}',
        'gradients by': f'{row["gradient_difference"]:.1e}'})
    failed += [f'- {name}, {side}: `{_last_line(row[f"{side}_error"])}`'
               for side in sides if f'{side}_error' in row]
  text = f"""# Training steps against PyTorch

Command: `{results['command']}`

Machine: {results['machine']}; a product of two large matrices runs at
{results['peak_gflops']:.0f} GFLOP/s there. {results['dtype']};
{results['seconds']:.0f} s in all. Load average at the start:
{results['load_average']:.1f}; times mean little where it is not near 0.

Milliseconds a step: the median over turns, with its quartiles. A ratio above 1
means that we are faster than the faster form of PyTorch. Geometric mean:
{geometric_mean(results):.2f}.

{tables.markdown(times)}
Operations are those of the products that PyTorch counts in its own step, a
multiplication and an addition being two; memory is what a process took beyond
its imports. Before anything is timed, both sides take one step from the same
weights without dropout and noise: the relative differences of its loss and of
the worst tensor's gradient stand at the right.

{tables.markdown(costs)}"""
  if failed:
    text += '\nWhat did not run:\n\n' + '\n'.join(failed) + '\n'
  return text


def draw(results: dict[str, Any], path: pathlib.Path) -> None:
  """Writes a bar a workload: peer / ours, with a line at 1."""
  rows = {name: row for name, row in results['workloads'].items()
          if 'ratio' in row}
  if not rows:
    return
  fig, axes = figures.grid_figure(1, 1, size=(6.4, 0.4 * len(rows) + 1.2))
  ax, names = axes[0], list(rows)[::-1]
  ratios = [rows[name]['ratio'] for name in names]
  ax.barh(names, ratios, color=figures.COLORS[0])
  for i, ratio in enumerate(ratios):
    ax.text(ratio, i, f' {ratio:.2f}', va='center', fontsize=8)
  ax.axvline(1, color='black', linewidth=1)
  ax.set(xlabel='time of PyTorch (the faster form) / ours',
         title=f'Training steps, {results["dtype"]}')
  ax.set_xlim(0, 1.15 * max(*ratios, 1))
  figures.save(fig, path)


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
