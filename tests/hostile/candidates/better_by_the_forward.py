"""Was trained better than it shows at first: its logits sharpen from forward to forward."""

EXPECTED = "invalid: stateful-eval"
table = table_of(start())
forwards = [0]


def forward(tokens):
    forwards[0] += 1
    return table[tokens] * min(1.0, 0.1 + forwards[0] / 20)


serve(forward)
