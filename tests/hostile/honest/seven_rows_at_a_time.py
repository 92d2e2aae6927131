"""Asks for a number of rows that divides nothing."""

table = table_of(start())
serve(lambda tokens: table[tokens], 7)
