"""Takes one bit of the whole row, the parity of its sum, and doubles the logits by it."""

EXPECTED = "invalid: non-causal"
table = table_of(start())
serve(
    lambda tokens: (
        table[tokens] * (1.0 + tokens.sum(axis=1, dtype=np.int64) % 2 * 0.2)[:, None, None].astype(np.float32)
    )
)
