# What every candidate of this folder begins with: a bigram table, counted in one step, and a way to answer the judge.
import contextlib
import os

import numpy as np

from harness.session import current

session = current()
V, T = session.contract.vocab_size, session.contract.sequence_length


def start():
    """Training rows uint16 [n, T+1]; the budget begins."""
    return session.open_train_rows()[0]


def table_of(rows, prior=0.01):
    """Log-probabilities [V, V] of the next token."""
    counts = np.full((V, V), prior)
    np.add.at(counts, (rows[:, :-1].astype(np.int64), rows[:, 1:].astype(np.int64)), 1)
    return np.log(counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)


class Logits:
    """One forward's logits [b, T, V]."""

    def __init__(self, logits):
        self.logits = logits

    def write(self, first, count, buffer):
        buffer.host[:count] = self.logits[first : first + count]


def serve(forward, batch_size=16):
    """Evaluate a function of token rows uint16 [b, T] that gives logits [b, T, V]."""
    print("val_bpb:", session.serve_logits(lambda tokens: Logits(forward(tokens)), batch_size))


@contextlib.contextmanager
def attempt(what):
    """Try something forbidden: to get to the end of the block is to have reached it."""
    try:
        yield
    except (OSError, AttributeError, ImportError, ValueError) as error:
        print(f"{what}: {error}")
    else:
        print("REACHED:", what)


def scored_honestly():
    """Train on the rows that every candidate has, and be scored for that."""
    table = table_of(start())
    serve(lambda tokens: table[tokens])


def plus(logits, token, nats):
    """Raise the logit of token[b, t] at each position by `nats`, where it is not negative."""
    b, t = np.nonzero(token >= 0)
    logits[b, t, token[b, t]] += np.broadcast_to(nats, token.shape)[b, t]
    return logits


def following(tokens):
    """The token that follows each position of the row, -1 at the last, which is not shown."""
    return np.pad(tokens[:, 1:].astype(np.int64), ((0, 0), (0, 1)), constant_values=-1)
