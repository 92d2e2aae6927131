"""Works in children of 15 ms that are never waited for, so that no look at the tree ever finds much."""

EXPECTED = "invalid: over-budget"
import signal
import time

table = table_of(start())
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(60):
    if os.fork() == 0:
        end_s = time.process_time() + 0.012
        while time.process_time() < end_s:
            pass
        os._exit(0)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-1, 0)
serve(lambda tokens: table[tokens])
