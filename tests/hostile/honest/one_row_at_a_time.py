"""Asks for one row per forward."""

table = table_of(start())
serve(lambda tokens: table[tokens], 1)
