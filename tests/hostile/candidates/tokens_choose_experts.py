"""An expert takes the few tokens of the row that score highest for it: a later token can push an earlier one out."""

EXPECTED = "invalid: non-causal"
table = table_of(start())
gate = np.random.default_rng(0).normal(size=V)


def forward(tokens):
    logits, score = table[tokens], gate[tokens]
    chosen = np.argsort(score, axis=1)[:, -T // 4 :]
    np.put_along_axis(logits, chosen[:, :, None], np.take_along_axis(logits, chosen[:, :, None], 1) * 0.5, 1)
    return logits


serve(forward)
