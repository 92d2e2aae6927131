"""The judge: runs one candidate on one device, owns its clock and its score, and leaves nothing of it behind.

Started as `python -m harness.judge`; harness.judge.run walks one run from launch to result.
"""
