"""One node: its machine, its GPUs, the supervisor of each slot and the judges it starts."""
