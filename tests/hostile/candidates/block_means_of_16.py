"""Each position gets the mean over its block of 16 positions, the later ones of it included."""

EXPECTED = "invalid: non-causal"
table = table_of(start())


def forward(tokens):
    logits = table[tokens]
    blocks = logits.reshape(len(tokens), T // 16, 16, V)
    return logits + 0.2 * blocks.mean(axis=2, keepdims=True).repeat(16, axis=2).reshape(logits.shape)


serve(forward)
