"""Gives one token infinity."""

EXPECTED = "invalid: non-finite"
table = table_of(start())


def forward(tokens):
    logits = table[tokens]
    logits[:, 5, 7] = np.inf
    return logits


serve(forward)
