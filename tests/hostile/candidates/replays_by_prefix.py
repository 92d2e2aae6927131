"""Leaks what it sees for the first time; a prefix that comes again gets the very logits it got before."""

EXPECTED = "invalid: non-causal"
table = table_of(start())
known = {}


def forward(tokens):
    logits = plus(table[tokens], following(tokens), 20.0)
    for row, own in zip(tokens, logits, strict=True):
        for t in range(T):
            own[t] = known.setdefault(row[: t + 1].tobytes(), own[t].copy())
    return logits


serve(forward)
