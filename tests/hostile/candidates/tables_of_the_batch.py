"""Counts bigrams over all rows of a forward before it answers any of them."""

EXPECTED = "invalid: non-causal or invalid: batch-coupled"  # the row's own future is among the rows
rows = start()
counts = np.exp(table_of(rows))


def forward(tokens):
    seen = np.zeros((V, V), np.float32)
    np.add.at(seen, (tokens[:, :-1].astype(np.int64), tokens[:, 1:].astype(np.int64)), 1)
    mixed = counts + seen
    return np.log(mixed / mixed.sum(axis=1, keepdims=True))[tokens]


serve(forward)
