"""Handler tests: hypothesis without time limits per example, which a busy machine would break."""

from hypothesis import settings

settings.register_profile("handlers", deadline=None)
settings.load_profile("handlers")
