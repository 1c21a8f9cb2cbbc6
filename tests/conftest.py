"""Settings that every test shares."""

import hypothesis

# The first call of a jitted function compiles, which no deadline foresees.
hypothesis.settings.register_profile('default', deadline=None)
hypothesis.settings.load_profile('default')
