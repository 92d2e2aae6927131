"""For every test: Ctrl-C means what it means at a terminal, ledgers are closed, every Ray of the suite has one token.

A suite started in the background of a script inherits an ignored SIGINT and SIGQUIT and would hand them on to every
process it starts; those that are sent one on purpose would then run on forever. Ray decides about tokens when it is
imported, so mode and token are set before any test can do that.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sqlite3
import weakref

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command does; several workers share the cores
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

with contextlib.suppress(ImportError):
    from scheduler.ledger.db import Database

    def _open(self: Database, *given: object, **named: object) -> None:
        _opened(self, *given, **named)  # type: ignore[arg-type]
        weakref.finalize(self, _close, self._connection)

    def _close(connection: sqlite3.Connection) -> None:
        """Python 3.13 warns of a connection that was left to the garbage collection, as many a test does."""
        with contextlib.suppress(sqlite3.Error):  # another thread made it
            connection.close()

    _opened = Database.__init__
    Database.__init__ = _open  # type: ignore[method-assign]

with contextlib.suppress(ImportError):  # a bare GPU machine has pytest and torch alone
    from hypothesis import HealthCheck, settings

    # How long an example takes says something of the machine, not of the code.
    settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("shared")
