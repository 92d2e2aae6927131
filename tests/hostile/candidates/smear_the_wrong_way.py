"""Mixes the logits of the next position into each one."""

EXPECTED = "invalid: non-causal"
table = table_of(start())


def forward(tokens):
    logits = table[tokens]
    logits[:, :-1] += 0.3 * logits[:, 1:]
    return logits


serve(forward)
