"""A thread rewrites the logits all the time, to be read at the best moment."""

EXPECTED = "invalid: non-causal or invalid: stateful-eval or invalid: batch-coupled or suspect: nondeterministic"
import threading

start()
target = {}


def rewrite():
    flip = 0.0
    while True:
        if (view := target.get("view")) is not None:
            flip = 60.0 - flip
            b, t = np.ogrid[: view.shape[0], : view.shape[1] - 1]
            view[b, t, target["next"][: view.shape[0]]] = flip


class Answer:
    def __init__(self, tokens):
        self.tokens = tokens

    def write(self, first, count, buffer):
        buffer.host[:count] = 0.0
        target["next"] = self.tokens[first : first + count, 1:].astype(np.int64)
        target["view"] = buffer.host[:count]


threading.Thread(target=rewrite, daemon=True).start()
session.serve_logits(Answer, 8)
