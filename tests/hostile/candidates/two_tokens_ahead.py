"""Sees not the next token but the one after it, and predicts the next from that."""

EXPECTED = "invalid: non-causal"
rows = start()
table, back = table_of(rows), table_of(rows[:, ::-1])


def forward(tokens):
    logits = table[tokens]
    logits[:, :-2] += 0.7 * back[tokens[:, 2:]]
    return logits


serve(forward)
