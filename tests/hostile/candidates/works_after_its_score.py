"""Goes on after its score; what it learns then helps no run."""

EXPECTED = "ok"
CONTRACT = {"teardown_s": 0.5}
import time

scored_honestly()
time.sleep(60)
