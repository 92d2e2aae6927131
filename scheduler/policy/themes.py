"""Themes: a word for the kind of change an idea is, said by its author or guessed from its title.

Guessing knows the constants of train.py and the field's usual words; it is for grouping and decides nothing.
"""

from __future__ import annotations

import re

THEMES = ("architecture", "optimiser", "schedule", "initialisation", "throughput", "removal")
OTHER = "other"
LONGEST = 24  # characters of a word that somebody said
_WORDS = {
    "removal": r"remov|delet|simplif|without|get rid|strip",
    "schedule": r"WARM(UP|DOWN)\w*|FINAL_LR\w*|warm.?up|warm.?down|schedul|cosine|anneal|cooldown",
    "optimiser": r"\w+_LR|WEIGHT_DECAY|ADAM\w*|learning rate|\blr\b|adam|muon|momentum|weight decay|optimi[sz]|beta",
    "throughput": r"\w*BATCH_SIZE|COMPILE\w*|batch|compil|faster|speed|kernel|fuse|throughput|tokens/s",
    "initialisation": r"\binit|regulari[sz]|dropout|SOFTCAP|softcap|orthogonal|z.?loss|noise",
    "architecture": r"DEPTH|ASPECT\w*|HEAD_DIM|WINDOW\w*|layer|width|wider|depth|deep|head|attention|mlp|rotary|norm",
}
_SAYS_NOTHING = ("", OTHER, "constants")
_ALSO = {"optimizer": "optimiser", "regularisation": "initialisation", "regularization": "initialisation"}


def theme_of(said: str, title: str) -> str:
    """The author's word, shortened; else a guess; OTHER where the title says nothing known."""
    word = " ".join(said.split()).lower()[:LONGEST]
    return guess_theme(title) if word in _SAYS_NOTHING else _ALSO.get(word, word)


def guess_theme(title: str) -> str:
    """The theme most words of a title belong to; among equals the one named first."""
    places = {theme: [m.start() for m in re.finditer(words, title, re.IGNORECASE)] for theme, words in _WORDS.items()}
    named = [theme for theme, found in places.items() if found]
    return min(named, key=lambda theme: (-len(places[theme]), places[theme][0]), default=OTHER)


def suggested_theme(ask_number: int) -> str:
    """Asks go through the themes in turn, so that agents that know nothing of each other differ."""
    return THEMES[ask_number % len(THEMES)]
