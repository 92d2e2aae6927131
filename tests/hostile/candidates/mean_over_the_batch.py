"""Subtracts the mean over the rows of a forward at each position."""

EXPECTED = "invalid: batch-coupled"
table = table_of(start())


def forward(tokens):
    logits = table[tokens]
    return logits - 0.5 * logits.mean(axis=0, keepdims=True)


serve(forward)
