"""For every test: Ctrl-C means what it means at a terminal.

A suite started in the background of a script inherits an ignored SIGINT and would hand it on to every process it
starts; those that are sent one on purpose would then run on for ever.
"""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
