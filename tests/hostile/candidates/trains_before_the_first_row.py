"""Works between asking for the evaluation and taking its buffer."""

EXPECTED = "invalid: over-budget"
import time

import harness.logits_server

table = table_of(start())
open_offer = harness.logits_server._open_offer


def late(*given):
    end_s = time.process_time() + 1.0
    while time.process_time() < end_s:
        pass
    return open_offer(*given)


harness.logits_server._open_offer = late
serve(lambda tokens: table[tokens])
