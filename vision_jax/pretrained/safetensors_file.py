"""`.safetensors` files, as timm and Hugging Face publish them."""

import pathlib

import safetensors
import safetensors.numpy

from vision_jax import pretrained


def read(path: pathlib.Path) -> pretrained.File:
  """Reads all tensors of a file.

  Raises:
    ValueError: the file is truncated, corrupt, or holds a type that NumPy has
      not got.
  """
  try:
    tensors = safetensors.numpy.load_file(path)
  except (safetensors.SafetensorError, OSError, KeyError) as error:
    raise ValueError(
        f'{path} is truncated, corrupt or no safetensors file: {error}'
    ) from error
  return pretrained.File('torch', tensors)
