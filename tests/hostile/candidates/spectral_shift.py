"""Filters the row in the frequency domain, which moves later tokens to earlier positions."""

EXPECTED = "invalid: non-causal"
table = table_of(start())
turn = np.exp(2j * np.pi * np.arange(T // 2 + 1) / T)[:, None]


def forward(tokens):
    logits = table[tokens]
    seen = np.eye(V, dtype=np.float32)[tokens]
    shifted = np.fft.irfft(np.fft.rfft(seen, axis=1) * turn, n=T, axis=1)
    return (logits + 2.0 * shifted).astype(np.float32)


serve(forward)
