"""Linear attention, a sum over the prefix."""

TORCH = True
net = trained(LinearAttention())
evaluate(net)
