"""Fast weights: counts of the row's own prefix, started anew for each row."""

table = np.exp(table_of(start()))


def forward(tokens):
    logits = np.empty((*tokens.shape, V), np.float32)
    for row, own in zip(tokens.astype(np.int64), logits, strict=True):
        counts = np.zeros((V,), np.float32)
        for t in range(T):
            counts[row[t]] += 0.01
            own[t] = np.log(table[row[t]] + counts)
    return logits


serve(forward)
