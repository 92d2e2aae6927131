"""Asks for more rows than there are; each is answered by itself."""

table = table_of(start())
serve(lambda tokens: table[tokens], 10**6)
