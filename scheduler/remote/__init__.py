"""`arsched --cluster FILE`: the laptop's side and the head's, joined by ssh. What is printed: scheduler.cli.cluster."""
