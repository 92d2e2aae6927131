"""Trains on past the budget, within the grace."""

EXPECTED = "invalid: over-budget"
import time

from harness import elapsed_seconds

table = table_of(start())
while elapsed_seconds() < session.contract.budget.seconds + 0.1:
    pass
serve(lambda tokens: table[tokens])
