"""Studies of small image data in JAX: models, protocols and comparisons."""

from vision_jax import xla_flags

# XLA reads its flags once, at the first computation of a process.
xla_flags.set_defaults()
