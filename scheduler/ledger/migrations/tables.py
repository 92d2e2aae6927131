"""What several steps of the schema need: tables that refuse changes, and tables rebuilt under another schema."""

from __future__ import annotations

from collections.abc import Mapping

from scheduler.ledger.db import Database


def append_only(database: Database, table: str) -> None:
    for verb in ("UPDATE", "DELETE"):
        database.execute(
            f"CREATE TRIGGER {table}_refuses_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} rows are append-only'); END"
        )


def rebuild(database: Database, table: str, create: str, values: Mapping[str, str]) -> None:
    """Give a table another schema: SQLite changes no CHECK in place. Rows, indexes, triggers and the counter stay.

    `create` is its CREATE TABLE with {name} for the name; `values` are SQL expressions over the old row for new
    columns, where the default is not right. Needs references unchecked, since others refer to the table dropped.
    """
    belongings = database.all(
        "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND type IN ('index', 'trigger') AND sql IS NOT NULL", table
    )
    counter = database.one("SELECT seq FROM sqlite_sequence WHERE name = ?", table)
    columns = [row["name"] for row in database.all(f"PRAGMA table_info({table})")]
    database.execute(create.format(name=f"new_{table}"))
    database.execute(
        f"INSERT INTO new_{table} ({', '.join([*columns, *values])})"
        f" SELECT {', '.join([*columns, *values.values()])} FROM {table}"
    )
    database.execute(f"DROP TABLE {table}")
    database.execute(f"ALTER TABLE new_{table} RENAME TO {table}")
    if counter is not None:  # numbers are never given twice, even where the last rows are gone
        database.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = ?", counter["seq"], table)
    for belonging in belongings:
        database.execute(belonging["sql"])
