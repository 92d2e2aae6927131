"""A mixture of softmaxes on top of attention."""

TORCH = True
net = trained(Attention(heads=4, kv_heads=4, rotary=True), heads_out=2)
evaluate(net)
