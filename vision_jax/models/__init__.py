"""Networks: one family a file; the only room that imports flax.linen."""
