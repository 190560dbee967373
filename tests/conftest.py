"""Settings of all tests: the caller's terminal changes nothing that commands print, and no example is wrong for being
slow on a busy machine (pytest-timeout ends what hangs)."""

import os

from hypothesis import settings

for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"):
    os.environ.pop(name, None)

settings.register_profile("igpo", deadline=None)
settings.load_profile("igpo")
