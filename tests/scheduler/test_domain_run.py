"""A judge's result.json: the verdict at once, the measurements when asked for, and nothing but ResultError."""

from __future__ import annotations

import json

import pytest

from scheduler.domain.errors import ArschedError
from scheduler.domain.run import Infra, Measurements, Result, ResultError, Scored, infra_result, parse_result

OK = {"format": 1, "status": "ok", "val_bpb": 1.9, "training": {"steps": 7}}


def test_measurements_are_parsed_when_they_are_asked_for_and_once() -> None:
    unread = Result(Scored(1.9, None), "not JSON")
    with pytest.raises(ResultError, match="not JSON"):
        _ = unread.measured
    result = Result(Scored(1.9, None), json.dumps(OK))
    assert result.measured.steps == 7 and result.measured is result.measured
    assert result == parse_result(json.dumps(OK))


def test_a_result_of_the_labs_own_measured_nothing() -> None:
    result = infra_result("lost", "the node is gone")
    assert result.verdict == Infra("infra: lost", "the node is gone")
    assert result.measured == Measurements() and parse_result(result.text) == result


@pytest.mark.parametrize(
    "raw",
    [
        [],
        {},
        {"format": 2, "status": "ok", "val_bpb": 1.9},
        {"format": 1, "status": "splendid"},
        {"format": 1, "status": "ok"},
        {"format": 1, "status": "ok", "val_bpb": float("nan")},
        OK | {"training": [1]},
        OK | {"training": {"loss_at": [1]}},
        OK | {"phases_s": {"train": "long"}},
        OK | {"phases_s": {"train": 10**400}},
    ],
)
def test_what_is_no_result_is_refused_when_it_is_read(raw: object) -> None:
    with pytest.raises(ResultError) as refusal:
        parse_result(json.dumps(raw))
    assert isinstance(refusal.value, ArschedError) and refusal.value.message
