"""`python -m scheduler`: the same as the command `arsched`."""

from scheduler.cli.main import main

main()
