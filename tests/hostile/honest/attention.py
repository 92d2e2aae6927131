"""Causal attention with rotary positions."""

TORCH = True
net = trained(Attention(heads=4, kv_heads=4, rotary=True))
evaluate(net)
