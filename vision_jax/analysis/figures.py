"""Figures of a run, drawn from arrays and rows into PNG files.

Each function takes finished numbers and a path, and writes one file below
300 kB. Nothing here computes a metric, reads a file or keeps a global figure:
matplotlib's object interface is used without pyplot, and imported only when
something is drawn.
"""

from collections.abc import Mapping, Sequence
import io
import math
import os
from typing import Any

import numpy as np

MAX_BYTES = 300_000
# Readable apart by colour-blind people, and in this order also in grey: Okabe
# and Ito, 2008, "Color universal design".
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9',
          '#000000')
_MARKERS = 'os^Dv<>P'
# Inches that a six-point tick label needs for itself.
_LABEL_INCHES = 0.14


def learning_curves(
    rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]
) -> None:
  """Draws one panel a metric: its `train_` and `validation_` columns.

  Args:
    rows: one an epoch, with `epoch` and `train_<metric>` or
      `validation_<metric>`; a row may lack a column.
    path: the PNG file to write.

  Raises:
    ValueError: no row has such a column.
  """
  names = dict.fromkeys(
      column.split('_', 1)[1] for row in rows for column in row
      if column.startswith(('train_', 'validation_')))
  if not names:
    raise ValueError('no column train_<metric> or validation_<metric> to draw')
  columns = min(3, len(names))
  fig, axes = grid_figure(len(names), columns, size=(4.0, 3.0))
  for ax, name in zip(axes, names):
    for split, color, marker in (
        ('train', COLORS[0], 'o'), ('validation', COLORS[1], 's')):
      points = [(row['epoch'], row[f'{split}_{name}']) for row in rows
                if f'{split}_{name}' in row]
      if points:
        # Markers would hide the line of a long run, but show a single epoch.
        ax.plot(*zip(*points), color=color, label=split, linewidth=1.5,
                marker=marker if len(points) <= 30 else None, markersize=3)
    ax.set(xlabel='epoch', ylabel=name.replace('_', ' '))
    ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
  save(fig, path)


def confusion_matrix(
    matrix: np.ndarray,
    class_names: Sequence[str],
    path: str | os.PathLike[str],
    *,
    title: str = '',
) -> None:
  """Draws counts, coloured by the share of each true class.

  Args:
    matrix: int [classes, classes], row = true class, column = predicted.
    class_names: names in the order of the rows.
    path: the PNG file to write.
    title: above the matrix; '' = how many lie on its diagonal.
  """
  matrix = np.asarray(matrix)
  count = len(class_names)
  side = max(3.0, count * (0.32 if count <= 25 else _LABEL_INCHES))
  fig = _figure(side + 2.2, side + 1.4)
  ax = fig.add_subplot()
  support = matrix.sum(axis=1, keepdims=True)
  share = matrix / np.maximum(support, 1)
  image = ax.imshow(share, cmap='Blues', vmin=0, vmax=1)
  size = 8 if count <= 25 else 6
  ax.set_xticks(range(count), class_names, rotation=90, fontsize=size)
  ax.set_yticks(range(count), class_names, fontsize=size)
  ax.set(xlabel='predicted class', ylabel='true class')
  ax.set_title(title or f'{matrix.trace()} of {matrix.sum()} right',
               fontsize=10)
  fig.colorbar(image, ax=ax, shrink=0.6, label='share of the true class')
  for i, j in zip(*np.nonzero(matrix)) if count <= 25 else ():
    ax.text(j, i, matrix[i, j], ha='center', va='center', fontsize=size - 1,
            color='white' if share[i, j] > 0.5 else 'black')
  save(fig, path)


def image_grid(
    images: np.ndarray,
    path: str | os.PathLike[str],
    titles: Sequence[str] | None = None,
) -> None:
  """Draws images side by side, as they are: no stretching of their range.

  Args:
    images: float [n, H, W, C] in [0, 1]; C is 1 or 3.
    path: the PNG file to write.
    titles: above each image; a line break is kept.

  Raises:
    ValueError: `images` or `titles` do not fit.
  """
  if titles is not None and len(titles) != len(images):
    raise ValueError(f'{len(titles)} titles for {len(images)} images')
  fig, axes = grid_figure(
      len(images), math.ceil(math.sqrt(len(images))), size=(1.7, 1.95))
  for i, (ax, image) in enumerate(zip(axes, images)):
    _show(ax, image)
    if titles is not None:
      lines = map(_shorten, titles[i].split('\n'))
      ax.set_title('\n'.join(lines), fontsize=7)
  save(fig, path)


def reconstructions(
    rows: Mapping[str, np.ndarray], path: str | os.PathLike[str], *,
    inches: float = 1.3
) -> None:
  """Draws named batches one below the other: original, noisy, reconstructed.

  Args:
    rows: float [n, H, W, C] in [0, 1] by name, all of the same n examples.
    path: the PNG file to write.
    inches: width of an image.

  Raises:
    ValueError: the batches differ in length.
  """
  counts = {name: len(images) for name, images in rows.items()}
  if len(set(counts.values())) != 1:
    raise ValueError(f'every row needs the same examples, got {counts}')
  columns = next(iter(counts.values()))
  fig, axes = grid_figure(
      columns * len(rows), columns, size=(inches, inches + 0.1))
  for ax, image in zip(axes, (x for images in rows.values() for x in images)):
    _show(ax, image)
  for ax, name in zip(axes[::columns], rows):
    ax.set_ylabel(name, fontsize=9)
  save(fig, path)


def per_class_bars(
    rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]
) -> None:
  """Draws recall and n of each class, with 95 % Wilson whiskers.

  Args:
    rows: of `metrics.per_class`; long lists continue in further columns.
    path: the PNG file to write.
  """
  columns = math.ceil(len(rows) / 40)
  length = math.ceil(len(rows) / columns)
  fig, axes = grid_figure(
      columns, columns, size=(4.2, 0.9 + 0.19 * max(length, 4)))
  for i, ax in enumerate(axes):
    part = rows[i * length:(i + 1) * length]
    recall = np.array([row['recall'] for row in part])
    whiskers = np.array([
        recall - [row['recall_low'] for row in part],
        [row['recall_high'] for row in part] - recall])
    ax.barh(range(len(part)), recall, color=COLORS[5])
    ax.errorbar(recall, range(len(part)), xerr=np.maximum(whiskers, 0),
                fmt='none', ecolor='black', elinewidth=0.8, capsize=1.5)
    labels = [f'{_shorten(row["class"])} ({row["n"]})' for row in part]
    ax.set_yticks(range(len(part)), labels, fontsize=7)
    ax.tick_params(axis='x', labelsize=7)
    ax.set(xlim=(0, 1), ylim=(length - 0.5, -0.5))
    ax.set_xlabel('recall, 95 % Wilson interval', fontsize=8)
    ax.grid(axis='x', alpha=0.3)
  fig.supylabel('class (number of examples)', fontsize=8)
  save(fig, path)


def interval_plot(
    series: Mapping[str, Sequence[tuple[float, float, float, float]]],
    path: str | os.PathLike[str],
    *,
    xlabel: str,
    ylabel: str,
    references: Mapping[str, float],
) -> None:
  """Draws values over x with their intervals, one line a series.

  Args:
    series: points (x, value, low, high) by name.
    path: the PNG file to write.
    xlabel: title of the x axis.
    ylabel: title of the y axis.
    references: heights of dashed horizontal lines by name; {} = none.
  """
  fig = _figure(6.4, 4.2)
  ax = fig.add_subplot()
  xs = sorted({point[0] for points in series.values() for point in points})
  gap = min(np.diff(xs), default=1.0)
  handles = []
  for i, (name, points) in enumerate(series.items()):
    x, value, low, high = np.array(sorted(points), float).T
    # Side by side, so that whiskers at the same x do not cover each other.
    offset = gap * 0.08 * (i - (len(series) - 1) / 2)
    handles.append(ax.errorbar(
        x + offset, value, yerr=(value - low, high - value), label=name,
        color=COLORS[i % len(COLORS)], marker=_MARKERS[i % len(_MARKERS)],
        markersize=5, linewidth=1.2, elinewidth=1, capsize=3))
  for i, (name, height) in enumerate(references.items()):
    handles.append(ax.axhline(
        height, color='0.35', linewidth=1, label=name,
        linestyle=('--', ':', '-.')[i % 3]))
  if gap >= 0.08 * (xs[-1] - xs[0]):
    ax.set_xticks(xs, [f'{x:g}' for x in xs])
  ax.set(xlabel=xlabel, ylabel=ylabel)
  ax.grid(alpha=0.3)
  ax.legend(handles=handles, fontsize=8, loc='center left',
            bbox_to_anchor=(1.0, 0.5))
  save(fig, path)


def scatter(
    groups: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    *,
    xlabel: str,
    ylabel: str,
) -> None:
  """Draws points of the plane, one colour and marker a group.

  Args:
    groups: points [n, 2] by name.
    path: the PNG file to write.
    xlabel: title of the x axis.
    ylabel: title of the y axis.
  """
  fig = _figure(5.4, 4.2)
  ax = fig.add_subplot()
  for i, (name, points) in enumerate(groups.items()):
    ax.scatter(*np.asarray(points).T, s=12, label=name, alpha=0.6,
               color=COLORS[i % len(COLORS)],
               marker=_MARKERS[i % len(_MARKERS)], linewidths=0)
  ax.set(xlabel=xlabel, ylabel=ylabel)
  ax.grid(alpha=0.3)
  ax.legend(fontsize=8, loc='center left', bbox_to_anchor=(1.0, 0.5))
  save(fig, path)


def _figure(width: float, height: float):
  from matplotlib import figure
  return figure.Figure(figsize=(width, height), layout='constrained')


def grid_figure(count: int, columns: int, *, size: tuple[float, float]):
  """Returns a figure and `count` axes, row by row, `size` inches each."""
  lines = math.ceil(count / columns)
  fig = _figure(columns * size[0], lines * size[1])
  axes = [fig.add_subplot(lines, columns, i + 1) for i in range(count)]
  return fig, axes


def _show(ax, image: np.ndarray) -> None:
  image = np.clip(np.asarray(image, np.float32), 0.0, 1.0)
  if image.shape[-1] == 1:
    image = image.repeat(3, axis=-1)
  ax.imshow(image)
  ax.set(xticks=[], yticks=[])


def _shorten(text: str, length: int = 28) -> str:
  return text if len(text) <= length else text[:length - 1] + '…'


def save(fig, path: str | os.PathLike[str]) -> None:
  """Writes the figure at the highest resolution that stays small.

  A palette of 256 colours costs less legibility than a lower resolution does.
  """
  from PIL import Image
  for dpi in (150, 110, 80, 60, 40):
    drawn, small = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format='png', dpi=dpi)
    if drawn.tell() <= MAX_BYTES:
      small = drawn
      break
    Image.open(drawn).convert('RGB').quantize(256).save(
        small, format='png', optimize=True)
    if small.tell() <= MAX_BYTES:
      break
  with open(path, 'wb') as file:
    file.write(small.getvalue())
