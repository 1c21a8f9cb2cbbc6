"""Studies of small image data in JAX: models, protocols and comparisons."""
