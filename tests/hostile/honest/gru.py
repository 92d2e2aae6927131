"""A GRU."""

TORCH = True
net = trained(Recurrent(nn.GRU))
evaluate(net)
