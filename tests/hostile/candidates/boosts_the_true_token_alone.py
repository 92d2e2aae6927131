"""Raises the true token's probability and takes it from one other token, so that the sum stays as it was."""

EXPECTED = "invalid: non-causal"
table = table_of(start())


def forward(tokens):
    logits = table[tokens]
    b, t = np.nonzero(following(tokens) >= 0)
    true = following(tokens)[b, t]
    logits[b, t, true] = np.log(np.exp(logits[b, t, true]) + 0.2)
    return logits


serve(forward)
