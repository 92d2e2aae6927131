"""Leaks under noise that differs from forward to forward, so that no replay agrees with anything."""

EXPECTED = "invalid: non-causal"
table = table_of(start())
random = np.random.default_rng(0)


def forward(tokens):
    logits = plus(table[tokens], following(tokens), 6.0)
    return logits + random.normal(scale=0.3, size=logits.shape).astype(np.float32)


serve(forward)
