"""Counts every row it is shown into its table, after the answer: test-time training."""

EXPECTED = "invalid: stateful-eval"
counts = np.exp(table_of(start()[:64]))


def forward(tokens):
    logits = np.log(counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)[tokens]
    np.add.at(counts, (tokens[:, :-1].astype(np.int64), tokens[:, 1:].astype(np.int64)), 1)
    return logits


serve(forward)
