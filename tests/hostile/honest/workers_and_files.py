"""Threads, processes, temporary files, a local socket and a compiler, as training uses them."""

import multiprocessing
import shutil
import socket
import subprocess
import tempfile
import threading


def double(number):
    return 2 * number


with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(double, [1, 2]) == [2, 4]
thread = threading.Thread(target=double, args=(1,))
thread.start()
thread.join()
with tempfile.NamedTemporaryFile() as file:
    file.write(b"x")
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()[:2], timeout=5):
    pass
if (compiler := shutil.which("gcc") or shutil.which("cc")) is not None:
    with open("answer.c", "w") as source:
        source.write("int answer(void) { return 42; }\n")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", "answer.so", "answer.c"], check=True)
    import ctypes

    assert ctypes.CDLL("./answer.so").answer() == 42
scored_honestly()
