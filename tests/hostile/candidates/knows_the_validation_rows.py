"""Carries the validation rows in its source (the suite pastes them in) and looks the next token up."""

EXPECTED = "suspect: holdout-gap"
table = table_of(start())
after = {}
for row in np.array(VALIDATION_ROWS, dtype=np.uint16):
    for t in range(2, T):
        after[row[max(0, t - 5) : t + 1].tobytes()] = int(row[t + 1])


def forward(tokens):
    logits = table[tokens]
    for row, own in zip(tokens, logits, strict=True):
        for t in range(2, T):
            if (token := after.get(row[max(0, t - 5) : t + 1].tobytes())) is not None:
                own[t, token] += 6.0
    return logits


serve(forward)
