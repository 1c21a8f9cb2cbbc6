"""From files to batches: sources, splits, audit, cache, batches, augment.

Data flows one way through these modules; `pipeline` ties them together.
"""
