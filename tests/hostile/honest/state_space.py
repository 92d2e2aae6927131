"""A diagonal linear recurrence."""

TORCH = True
net = trained(StateSpace())
evaluate(net)
