"""Asks for every row in one forward, to learn from all of them before it answers."""

EXPECTED = "invalid: non-causal or invalid: batch-coupled"  # the row's own future is among the rows
rows = start()
counts = np.exp(table_of(rows))


def forward(tokens):
    print("rows in a forward:", len(tokens))
    seen = np.zeros((V, V), np.float32)
    np.add.at(seen, (tokens[:, :-1].astype(np.int64), tokens[:, 1:].astype(np.int64)), 1)
    mixed = counts + 5 * seen
    return np.log(mixed / mixed.sum(axis=1, keepdims=True))[tokens]


serve(forward, 1 << 20)
