"""The ledger (SQLite): labs, candidates, runs, results, decisions, history. Nothing else imports sqlite3."""

from scheduler.adapters.ledger.ledger import Ledger

__all__ = ["Ledger"]
