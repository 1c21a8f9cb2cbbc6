"""The study's figures 1 to 3, beside the same on the balanced test."""

import pathlib

import numpy as np

from vision_jax.analysis import figures

_STYLES = ('-', '--', '-.', ':')
_RUNGS = ('plain', 'regularized', 'normalized')


def draw(cells, out: pathlib.Path) -> None:
  """Writes figure1.png (accuracy), figure2.png (error), figure3.png (rungs).

  Args:
    cells: Settings by (ratio, rung, remedy); those that are missing are left
      out of the figures.
    out: Folder of the figures.
  """
  plain = {f'{ratio}:1': cells[ratio, 'plain', 'none']
           for ratio in (1, 3, 7, 15) if (ratio, 'plain', 'none') in cells}
  _panels(plain, out / 'figure1.png', {
      'training accuracy': 'train_accuracy',
      'own test: accuracy': 'own_accuracy',
      'balanced test: balanced accuracy': 'balanced_balanced_accuracy'})
  _panels(plain, out / 'figure2.png', {
      'training error': 'train_loss', 'own test: error': 'own_loss',
      'balanced test: error': 'balanced_loss'})
  ratio = max((key[0] for key in cells), default=15)
  rungs = {rung: cells[ratio, rung, 'none'] for rung in _RUNGS
           if (ratio, rung, 'none') in cells}
  _panels(rungs, out / 'figure3.png', {
      f'own test {ratio}:1: accuracy': 'own_accuracy',
      f'own test {ratio}:1: error': 'own_loss',
      'balanced test: balanced accuracy': 'balanced_balanced_accuracy'})


def _panels(cells, path: pathlib.Path, columns: dict[str, str]) -> None:
  """Draws a panel a column: mean over seeds and their range, by epoch."""
  if not cells:
    return
  fig, axes = figures.grid_figure(len(columns), len(columns), size=(4.2, 3.4))
  for ax, (title, column) in zip(axes, columns.items(), strict=True):
    for color, style, (name, cell) in zip(
        figures.COLORS, _STYLES, cells.items()):
      values = np.array([row[column] for row in cell.rows])
      epochs = np.arange(1, len(values) + 1)
      ax.plot(epochs, values.mean(1), style, color=color, label=name)
      ax.fill_between(epochs, values.min(1), values.max(1), color=color,
                      alpha=0.15, linewidth=0)
    ax.set(xlabel='epoch', ylabel='cross-entropy, nats', title=title)
    ax.grid(alpha=0.3)
    if 'accuracy' in column:
      ax.set(ylim=(0, 1.02), ylabel='accuracy')
    ax.legend(fontsize=8)
  fig.suptitle('lines: mean over seeds; bands: their range', fontsize=9)
  figures.save(fig, path)
