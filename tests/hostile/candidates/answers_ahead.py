"""Sends DONE for a slice it was not asked for."""

EXPECTED = "invalid: protocol"
from harness.protocol import Message, Op, send

table = table_of(start())


def forward(tokens):
    send(session._socket, Message(Op.DONE, count=99))
    return table[tokens]


serve(forward)
