"""Causal convolutions."""

TORCH = True
net = trained(Convolution())
evaluate(net)
