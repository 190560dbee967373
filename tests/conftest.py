"""Settings of all tests: on a busy machine no example is wrong for being slow; pytest-timeout ends what hangs."""

from hypothesis import settings

settings.register_profile("igpo", deadline=None)
settings.load_profile("igpo")
