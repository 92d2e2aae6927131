"""Leaks the next token in the last quarter of a row only."""

EXPECTED = "invalid: non-causal"
table = table_of(start())
late = np.where(np.arange(T) >= 3 * T // 4, 20.0, 0.0)
serve(lambda tokens: plus(table[tokens], following(tokens), late))
