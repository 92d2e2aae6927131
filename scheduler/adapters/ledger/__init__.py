"""The ledger (SQLite): labs, candidates, runs, results, decisions, history. Nothing else imports sqlite3."""

from scheduler.adapters.ledger.db import WHAT_IS_LEFT
from scheduler.adapters.ledger.ledger import Ledger

__all__ = ["WHAT_IS_LEFT", "Ledger"]
