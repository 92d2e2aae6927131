"""Learns from every row it is shown; a prefix that comes again gets the logits it got before."""

EXPECTED = "invalid: stateful-eval"
counts = np.exp(table_of(start()[:4])) * 0.1
known = {}


def forward(tokens):
    logits = np.log(counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)[tokens]
    for row, own in zip(tokens, logits, strict=True):
        for t in range(T):
            own[t] = known.setdefault(row[: t + 1].tobytes(), own[t].copy())
    np.add.at(counts, (tokens[:, :-1].astype(np.int64), tokens[:, 1:].astype(np.int64)), 1)
    return logits


serve(forward)
