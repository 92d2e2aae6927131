"""Looks for processes of other runs and kills one."""

EXPECTED = "ok"
import signal

others = [
    int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in (os.getpid(), os.getppid(), 1)
]
with attempt("another process"):
    if BYSTANDER not in others:
        raise ProcessLookupError("not in sight")
with attempt("killing it"):
    os.kill(BYSTANDER, signal.SIGKILL)
scored_honestly()
