"""Attention whose heads share keys and values."""

TORCH = True
net = trained(Attention(heads=4, kv_heads=2, rotary=True))
evaluate(net)
