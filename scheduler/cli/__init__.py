"""The command line: main.py and one short file per verb, each with a `command`. Printing and exit codes live here."""
