"""Sleeps in its evaluation."""

EXPECTED = "timeout: eval"
CONTRACT = {"evaluation_s": 1.0}
import time

start()
serve(lambda tokens: time.sleep(60))
