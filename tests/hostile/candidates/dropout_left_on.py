"""Zeroes a tenth of what it knows at random in every forward, as a model in training mode does."""

EXPECTED = "suspect: nondeterministic"
table = table_of(start())
random = np.random.default_rng()
serve(lambda tokens: table[tokens] * (random.random((*tokens.shape, 1)) > 0.1).astype(np.float32))
