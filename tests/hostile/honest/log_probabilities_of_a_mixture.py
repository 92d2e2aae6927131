"""Two tables, mixed as probabilities; some tokens are ruled out altogether."""

rows = start()
first, second = np.exp(table_of(rows[::2])), np.exp(table_of(rows[1::2], prior=1.0))
serve(lambda tokens: np.log(0.7 * first[tokens] + 0.3 * second[tokens]))
