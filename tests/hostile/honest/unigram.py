"""Counts tokens, whatever came before them."""

rows = start()
counts = np.bincount(rows.reshape(-1), minlength=V) + 0.01
logits = np.log(counts / counts.sum()).astype(np.float32)
serve(lambda tokens: np.broadcast_to(logits, (*tokens.shape, V)))
