"""Answers with the next input token itself."""

EXPECTED = "invalid: non-causal"
table = table_of(start())
serve(lambda tokens: plus(table[tokens], following(tokens), 30.0))
