"""The errors of the data room, each with a remedy in its message."""


class DataError(Exception):
  """Data that cannot be used as configured; the message says what to do."""


class ImageError(DataError):
  """One file that is no usable image; the message is the reason alone."""


def check_choice(field: str, value: str, *, allowed: tuple[str, ...]):
  """Raises DataError unless `value` is one of `allowed`."""
  if value not in allowed:
    raise DataError(
        f'config.data.{field} is {value!r}; it must be one of '
        f'{", ".join(map(repr, allowed))}.')


def count(number: int, one: str, several: str = '') -> str:
  """Says how many: '1 file', '2 files', or with a plural of its own."""
  return f'{number} {one if number == 1 else several or one + "s"}'


def shortlist(names, *, limit: int = 8) -> str:
  """The first `limit` names, indented one a line, and how many follow."""
  names = [str(name) for name in names]
  lines = [f'\n  {name}' for name in names[:limit]]
  if len(names) > limit:
    lines.append(f'\n  ... and {len(names) - limit} more')
  return ''.join(lines)
