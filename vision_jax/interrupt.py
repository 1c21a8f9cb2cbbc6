"""SIGTERM and Ctrl-C end a run at the next step, with a checkpoint."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import threading
from typing import Iterator

import orbax.checkpoint as ocp

_WATCHED = (signal.SIGTERM, signal.SIGINT)
_AGAIN = b'\nStopping after this step; Ctrl-C again stops at once.\n'


class Stopped(Exception):
  """The run was asked to stop and has saved its state; it can go on."""


@dataclasses.dataclass
class Request:
  """The name of the signal that has asked the run to stop; '' = none."""
  stop: str = ''


@contextlib.contextmanager
def watch() -> Iterator[Request]:
  """Yields a request that the signals set, and restores the old handlers.

  A second signal of a kind finds the old handler: KeyboardInterrupt, for
  Ctrl-C. Outside the main thread, where Python allows no handlers, nothing is
  watched.
  """
  request = Request()
  if threading.current_thread() is not threading.main_thread():
    yield request
    return
  # What a process was started to ignore, as a shell's background jobs are
  # Ctrl-C, stays ignored; None is a handler that Python could not restore.
  old = {number: handler for number in _WATCHED
         if (handler := signal.getsignal(number)) not in (
             signal.SIG_IGN, None)}
  def handle(number, _):
    request.stop = signal.Signals(number).name
    signal.signal(number, old[number])
    if number == signal.SIGINT:
      os.write(2, _AGAIN)  # Within a handler `print` may fail.
  try:
    for number in old:
      signal.signal(number, handle)
    yield request
  finally:
    for number, handler in old.items():
      signal.signal(number, handler)


def leave(
    request: Request, manager: ocp.CheckpointManager, folder: pathlib.Path,
) -> None:
  """Waits for the checkpoint to be on disk, then raises Stopped."""
  manager.wait_until_finished()
  raise Stopped(f'Stopped by {request.stop} after step '
                f'{manager.latest_step()} of {folder}.')
