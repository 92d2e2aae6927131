"""The loop, the use cases, the command line and the views."""
