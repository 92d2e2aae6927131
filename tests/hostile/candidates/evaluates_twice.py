"""Asks for a second evaluation, to keep the better one."""

EXPECTED = "invalid: protocol"
table = table_of(start())
serve(lambda tokens: table[tokens])
serve(lambda tokens: table[tokens])
