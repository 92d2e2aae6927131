"""The ledger (SQLite): labs, candidates, runs, results, decisions, history. Nothing else imports sqlite3."""

from scheduler.ledger.copies import move_database
from scheduler.ledger.db import WHAT_IS_LEFT
from scheduler.ledger.ledger import Ledger

__all__ = ["WHAT_IS_LEFT", "Ledger", "move_database"]
