"""Figures of mistakes: galleries, confused pairs, calibration, class size.

Takes what errors.py counts and images; writes PNG files below 300 kB.
"""

from collections.abc import Mapping, Sequence
import os
from typing import Any

import numpy as np

from vision_jax.analysis import figures
from vision_jax.data import taxonomy


def gallery(
    images: np.ndarray, truth: Sequence[str], predicted: Sequence[str],
    probabilities: Sequence[float], path: str | os.PathLike[str]) -> None:
  """Draws mistakes with their truth, the prediction and its probability.

  Args:
    images: float [n, H, W, C] in [0, 1].
    truth: Class name of each.
    predicted: The class it was taken for.
    probabilities: Of the prediction.
    path: The PNG file to write.
  """
  titles = [f'{taxonomy.leaf(a)}\ntaken for {taxonomy.leaf(b)}\np = {p:.2f}'
            for a, b, p in zip(truth, predicted, probabilities, strict=True)]
  figures.image_grid(images, path, titles)


def pairs(
    rows: Sequence[tuple[np.ndarray, Sequence[str]]],
    path: str | os.PathLike[str]) -> None:
  """Draws one line a confused pair: images side by side, each with a title.

  Args:
    rows: For each pair its images float [k, H, W, C] in [0, 1] and k titles.
    path: The PNG file to write.
  """
  columns = max(len(titles) for _, titles in rows)
  fig, axes = figures.grid_figure(
      columns * len(rows), columns, size=(1.9, 2.1))
  for ax in axes:
    ax.axis('off')
  for i, (images, titles) in enumerate(rows):
    for ax, image, title in zip(
        axes[i * columns:], images, titles, strict=False):
      ax.imshow(np.clip(image, 0, 1))
      ax.set_title(title, fontsize=7)
  figures.save(fig, path)


def calibration(
    rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
  """Draws accuracy over confidence with Wilson whiskers and n.

  Args:
    rows: Of `errors.calibration`.
    path: The PNG file to write.
  """
  fig, (ax,) = figures.grid_figure(1, 1, size=(4.2, 4.0))
  ax.plot([0, 1], [0, 1], color='0.5', linestyle='--', linewidth=1,
          label='calibrated')
  _whiskers(ax, rows, [row['confidence'] for row in rows],
            label='of a bin, 95 % Wilson interval')
  for row in rows:
    ax.annotate(str(row['n']), (row['confidence'], -0.06), fontsize=7,
                ha='center')
  ax.set(xlabel='mean confidence (n at the bottom)', ylabel='accuracy',
         xlim=(0, 1.06), ylim=(-0.08, 1.04))
  ax.legend(fontsize=8, ncols=2, loc='lower center', bbox_to_anchor=(0.5, 1))
  ax.grid(alpha=0.3)
  figures.save(fig, path)


def class_size(
    counts: np.ndarray, recalls: np.ndarray, rows: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str]) -> None:
  """Draws recall over training examples: each class, and groups of classes.

  Args:
    counts: Training examples of each class.
    recalls: Of each class; nan where the test has no example of it.
    rows: Of `errors.by_class_size`, whose classes are these, sorted by size.
    path: The PNG file to write.
  """
  fig, (ax,) = figures.grid_figure(1, 1, size=(5.0, 3.6))
  ax.scatter(counts, recalls, s=14, alpha=0.5, color=figures.COLORS[5],
             label='a class')
  groups = np.array_split(np.sort(counts), len(rows))
  _whiskers(ax, rows, [np.exp(np.log(group).mean()) for group in groups],
            label='pooled, 95 % Wilson interval')
  ax.set(xscale='log', xlabel='training images of the class', ylabel='recall',
         ylim=(-0.03, 1.03))
  low, high = 0.7 * min(counts), 1.4 * max(counts)
  ax.set_xticks([m * 10**e for e in range(6) for m in (1, 2, 5)
                 if low <= m * 10**e <= high])
  ax.xaxis.set_major_formatter('{x:g}')
  ax.xaxis.set_minor_formatter('')
  ax.legend(fontsize=8)
  ax.grid(alpha=0.3)
  figures.save(fig, path)


def rates(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str],
    path: str | os.PathLike[str], *, xlabel: str) -> None:
  """Draws rates as bars with Wilson whiskers and n.

  Args:
    rows: With rate, low, high and n.
    names: Of the bars.
    path: The PNG file to write.
    xlabel: What the rate is.
  """
  fig, (ax,) = figures.grid_figure(1, 1, size=(6.4, 0.8 + 0.4 * len(rows)))
  places = np.arange(len(rows))
  value, whiskers = _values(rows)
  ax.barh(places, value, color=figures.COLORS[5])
  ax.errorbar(value, places, xerr=whiskers, fmt='none', ecolor='black',
              capsize=3)
  labels = [f'{name} ({row["n"]})' for name, row in zip(names, rows)]
  ax.set_yticks(places, labels, fontsize=8)
  ax.set(xlim=(0, min(1, 1.1 * max(row['high'] for row in rows))),
         ylim=(len(rows) - 0.5, -0.5))
  ax.set_xlabel(f'{xlabel}, 95 % Wilson interval', fontsize=8)
  ax.grid(axis='x', alpha=0.3)
  figures.save(fig, path)


def _whiskers(ax, rows, places, *, label: str) -> None:
  value, whiskers = _values(rows)
  ax.errorbar(places, value, yerr=whiskers, fmt='o', color=figures.COLORS[0],
              markersize=5, capsize=3, label=label)


def _values(rows) -> tuple[np.ndarray, np.ndarray]:
  """Returns rates [n] and whiskers [2, n] of rows with rate, low and high."""
  value = np.array([row['rate'] for row in rows])
  return value, np.abs(np.array([
      value - [row['low'] for row in rows],
      [row['high'] for row in rows] - value]))
