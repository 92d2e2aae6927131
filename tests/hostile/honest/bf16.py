"""Causal attention, computed in bfloat16."""

TORCH = True
net = trained(Attention(heads=4, kv_heads=4, rotary=True))
evaluate(in_bfloat16)
