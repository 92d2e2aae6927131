"""Was made for short rows: past their middle it knows little."""

table = table_of(start())
fade = np.where(np.arange(T) < T // 2, 1.0, 0.2).astype(np.float32)[:, None]
serve(lambda tokens: table[tokens] * fade)
