"""Keeps every row it is shown and copies from the longest match in another row; a prefix gets what it got before."""

EXPECTED = "invalid: stateful-eval"
table = table_of(start())
seen, known = {}, {}


def forward(tokens):
    logits = table[tokens]
    for row, own in zip(tokens, logits, strict=True):
        for t in range(5, T):
            if (after := seen.get(row[t - 5 : t + 1].tobytes())) is not None:
                own[t, after] += 4.0
            own[t] = known.setdefault(row[: t + 1].tobytes(), own[t].copy())
    for row in tokens:
        for t in range(5, T - 1):
            seen[row[t - 5 : t + 1].tobytes()] = int(row[t + 1])
    return logits


serve(forward)
