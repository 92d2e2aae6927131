"""Sends what would run code where it is unpickled."""

EXPECTED = "invalid: protocol"
import pickle

start()
session._socket.send(pickle.dumps(os.system))
