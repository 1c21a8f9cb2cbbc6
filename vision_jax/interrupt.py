"""SIGTERM ends a run at the next step, with a checkpoint."""

import contextlib
import dataclasses
import pathlib
import signal
import threading
from typing import Iterator

import orbax.checkpoint as ocp


class Stopped(Exception):
  """The run was asked to stop and has saved its state; it can go on."""


@dataclasses.dataclass
class Request:
  """Whether a signal has asked the run to stop."""
  stop: bool = False


@contextlib.contextmanager
def watch() -> Iterator[Request]:
  """Yields a request that SIGTERM sets, and restores the old handler.

  Outside the main thread, where Python allows no handlers, nothing is
  watched.
  """
  request = Request()
  if threading.current_thread() is not threading.main_thread():
    yield request
    return
  def handle(*_):
    request.stop = True
  old = signal.signal(signal.SIGTERM, handle)
  try:
    yield request
  finally:
    signal.signal(signal.SIGTERM, old)


def leave(manager: ocp.CheckpointManager, folder: pathlib.Path) -> None:
  """Waits for the checkpoint to be on disk, then raises Stopped."""
  manager.wait_until_finished()
  raise Stopped(
      f'Stopped by SIGTERM after step {manager.latest_step()}. The same '
      f'command with --workdir={folder} goes on from there.')
