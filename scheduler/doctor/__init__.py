"""Is everything here that a night needs? examine.py asks, the other files answer for one part of the world each."""
