"""A thread goes on counting training rows while the evaluation runs."""

EXPECTED = "invalid: stateful-eval or suspect: nondeterministic"  # a race with the judge
import threading
import time

rows = start()
counts = np.exp(table_of(rows[:8]))


def work():
    for row in rows[8:]:
        np.add.at(counts, (row[:-1].astype(np.int64), row[1:].astype(np.int64)), 1)
        time.sleep(0.0005)


thread = threading.Thread(target=work, daemon=True)
thread.start()


def forward(tokens):
    time.sleep(0.01)
    return np.log(counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)[tokens]


serve(forward)
