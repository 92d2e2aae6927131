"""Numbers as people read them: bits per byte with their error, signs that line up, seconds in words.

Unknown is "–", never NaN. A real minus sign, so that no shell or sheet reads an effect as an option.
"""

from __future__ import annotations

UNKNOWN = "–"
QUIET_SD_BPB = 0.002  # below this noise a fourth decimal is not enough


def decimals(noise_sd_bpb: float | None) -> int:
    """Decimals that a bpb is worth under this noise."""
    return 5 if noise_sd_bpb is not None and noise_sd_bpb < QUIET_SD_BPB else 4


def bpb(value: float | None, se: float | None = None, places: int = 4) -> str:
    """`1.8440 ± 0.0034`; without error the value alone."""
    if value is None:
        return UNKNOWN
    return f"{value:.{places}f}" if se is None else f"{value:.{places}f} ± {se:.{places}f}"


def effect(diff: float | None, se: float | None, places: int = 4) -> str:
    """`−0.0630 ± 0.0072`, with its sign."""
    if diff is None or se is None:
        return UNKNOWN
    return f"{diff:+.{places}f} ± {se:.{places}f}".replace("-", "−")


def probability(p: float | None) -> str:
    return UNKNOWN if p is None else f"{p:.2f}"


def seconds(value: float | None) -> str:
    """`3.2 s`, `4 min 10 s`, `2 h 5 min`."""
    if value is None:
        return UNKNOWN
    if value < 100:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def count(number: int, noun: str, many: str = "") -> str:
    """`1 run`, `3 runs`; `many` where the plural is another word."""
    return f"{number} {noun}" if number == 1 else f"{number} {many or noun + 's'}"


def hours(value: float) -> str:
    """`0.25`, `6.4`, `120`: of an hour what is worth saying."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def share(value: float) -> str:
    return f"{100 * value:.1f} %"


def cut(text: str, characters: int) -> str:
    """The text, or its beginning and …"""
    return text if len(text) <= characters else text[: characters - 1] + "…"
