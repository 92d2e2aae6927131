"""Limits, slows, moves and stops the judge."""

EXPECTED = "ok"
import resource
import signal
import time

judge = os.getppid()
with attempt("a limit of the judge's"):
    resource.prlimit(judge, resource.RLIMIT_FSIZE, (0, 0))
with attempt("the judge's priority"):
    os.setpriority(os.PRIO_PROCESS, judge, 19)
with attempt("the judge's scheduling"):
    os.sched_setscheduler(judge, os.SCHED_IDLE, os.sched_param(0))
with attempt("the judge's cores"):
    os.sched_setaffinity(judge, os.sched_getaffinity(judge))
for number in (signal.SIGSTOP, signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
    with contextlib.suppress(OSError):  # the first process of a namespace is sent nothing
        os.kill(judge, number)
with contextlib.suppress(OSError):
    signal.pidfd_send_signal(os.pidfd_open(judge), signal.SIGKILL)
time.sleep(0.2)
scored_honestly()
