"""An LSTM."""

TORCH = True
net = trained(Recurrent(nn.LSTM))
evaluate(net)
