"""Attention to the last sixteen positions."""

TORCH = True
net = trained(Attention(heads=4, kv_heads=4, rotary=True, window=16))
evaluate(net)
