"""Leaks two thirds of the positions where the next token is likely anyway, and replays what it answered to a prefix."""

EXPECTED = "invalid: non-causal"
table = table_of(start())
known = {}


def forward(tokens):
    logits, ahead = table[tokens], following(tokens)
    likely = np.take_along_axis(logits, ahead.clip(0)[:, :, None], 2)[:, :, 0] > np.log(0.03)
    share = (tokens.astype(np.int64) * 7919 % 100) < 70
    plus(logits, np.where(likely & share, ahead, -1), 12.0)
    for row, own in zip(tokens, logits, strict=True):
        for t in range(T):
            own[t] = known.setdefault(row[: t + 1].tobytes(), own[t].copy())
    return logits


serve(forward)
