"""Attention with linear biases for distance."""

TORCH = True
net = trained(Attention(heads=4, kv_heads=4, alibi=True))
evaluate(net)
