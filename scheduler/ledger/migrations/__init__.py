"""The ledger's schema as numbered steps. A step that shipped is never changed; a new need is a new step."""

from scheduler.ledger.migrations.apply import MIGRATIONS, Migration, migrate

__all__ = ["MIGRATIONS", "Migration", "migrate"]
