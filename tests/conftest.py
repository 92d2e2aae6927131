"""For every test: Ctrl-C means what it means at a terminal, and every Ray of the suite shares one token.

A suite started in the background of a script inherits an ignored SIGINT and would hand it on to every process it
starts; those that are sent one on purpose would then run on forever. Ray decides about tokens when it is imported, so
mode and token are set before any test can do that.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

with contextlib.suppress(ImportError):  # a bare GPU machine has pytest and torch alone
    from hypothesis import HealthCheck, settings

    # How long an example takes says something of the machine, not of the code.
    settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("shared")
