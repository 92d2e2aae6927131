"""The judge: runs one candidate on one device, owns its clock and its score, and leaves nothing of it behind.

`python -m harness.judge` is the way in; harness.judge.court walks one run from launch to result.
"""
