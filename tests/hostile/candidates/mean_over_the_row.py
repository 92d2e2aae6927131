"""Normalises by the mean over the whole row: no gain, and the future is in it all the same."""

EXPECTED = "invalid: non-causal"
table = table_of(start())


def forward(tokens):
    logits = table[tokens]
    return logits - 0.3 * logits.mean(axis=1, keepdims=True)


serve(forward)
