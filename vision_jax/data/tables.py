"""Reads the CSV tables that users bring, with their ordinary faults named.

What the columns mean is the business of the reader's callers.
"""

import csv
import pathlib

from vision_jax.data import errors


def read(path: pathlib.Path) -> tuple[list[str], list[dict[str, str]]]:
  """Returns the columns of a table, and its rows by column.

  Args:
    path: A CSV file in UTF-8 whose first line names the columns. Cells that a
      short row lacks are ''.

  Raises:
    errors.DataError: The file is not in UTF-8, no CSV, or cannot be read.
  """
  try:
    with path.open(newline='', encoding='utf-8-sig') as file:
      reader = csv.DictReader(file, restval='')
      return list(reader.fieldnames or ()), list(reader)
  except UnicodeDecodeError as error:
    raise errors.DataError(
        f'{path} is not in UTF-8 ({error.reason}); save it as UTF-8.'
    ) from error
  except csv.Error as error:
    raise errors.DataError(
        f'{path} is no CSV table ({error}); save it as CSV with commas, in '
        'UTF-8.') from error
  except OSError as error:
    raise errors.DataError(
        f'{path} cannot be read ({error.strerror}).') from error
