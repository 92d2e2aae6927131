"""Running a lab's queue: the turn, the loop and its steps, and what it shows of itself."""
