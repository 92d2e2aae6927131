"""A mask that is off by one: each position sees the token it should predict, a little."""

EXPECTED = "invalid: non-causal"
table = table_of(start())
serve(lambda tokens: plus(table[tokens], following(tokens), 2.0))
