"""Making a contract's cache on this node: `python -m harness.prepare --contract C`. Nothing here is needed to train."""
