"""A lab's queue: the scheduler lock, the loop with its steps, and what a terminal shows of it."""
