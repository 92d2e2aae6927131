"""A view on this disk: real paths, links on the way to them, and what is left once the redundant is gone.

Reads links and folders, changes nothing.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.sandbox.view import Exposure, Kind

_RANK: Mapping[Kind, int] = {"link": 0, "read": 1, "cover": 2, "fresh": 3, "device": 4, "write": 5}
_MOST_LINKS = 40


@dataclass(frozen=True, slots=True)
class ViewLayout:
    """`places` by real path, those above others first; `links`: path -> target, where no place shows them anyway."""

    places: tuple[Exposure, ...]
    links: Mapping[str, str]

    def enclosing(self, path: str) -> Exposure | None:
        """The place that decides what is seen at `path`, which may be `path` itself."""
        return enclosing({place.path: place for place in self.places}, path)


def lay_out(exposures: Iterable[Exposure]) -> ViewLayout:
    """Resolve a view. What does not exist is left out; of two exposures of one path the stronger counts."""
    links: dict[str, str] = {}
    found: dict[str, Exposure] = {}
    for exposure in exposures:
        if exposure.kind == "link":
            links[exposure.path] = exposure.options
            continue
        for path in glob.glob(exposure.path) if "*" in exposure.path else [exposure.path]:
            real, passed = resolve(path)
            if exposure.kind != "fresh" and not os.path.lexists(real):
                continue
            if exposure.kind != "cover":
                links |= passed
            rival = found.get(real)
            if rival is None or _RANK[exposure.kind] > _RANK[rival.kind]:
                found[real] = Exposure(real, exposure.kind, exposure.options)
    kept: dict[str, Exposure] = {}
    for path in sorted(found, key=_depth):
        if _is_needed(found[path], enclosing(kept, path)):
            kept[path] = found[path]
    shown = {link: target for link, target in links.items() if not _is_shown(enclosing(kept, link))}
    return ViewLayout(tuple(kept.values()), shown)


def resolve(path: str) -> tuple[str, dict[str, str]]:
    """The real path, and every symbolic link on the way: path, with real folders above it -> target."""
    links: dict[str, str] = {}
    real, rest = "/", [part for part in path.split("/") if part]
    while rest:
        part = rest.pop(0)
        if part == "..":
            real = os.path.dirname(real)
        elif part != ".":
            place = os.path.join(real, part)
            if not os.path.islink(place) or len(links) > _MOST_LINKS:
                real = place
                continue
            links[place] = target = os.readlink(place)
            real = "/" if target.startswith("/") else real
            rest[:0] = [one for one in target.split("/") if one]
    return real, links


def enclosing(places: Mapping[str, Exposure], path: str) -> Exposure | None:
    """The nearest of `places` at or above `path`."""
    while path not in places:
        if path == "/":
            return None
        path = os.path.dirname(path)
    return places[path]


def _is_needed(place: Exposure, above: Exposure | None) -> bool:
    if place.kind == "cover":
        return _is_shown(above)
    return not (place.kind == "read" and above is not None and above.kind == "read")


def _is_shown(above: Exposure | None) -> bool:
    return above is not None and above.kind in ("read", "write")


def _depth(path: str) -> int:
    return path.count("/") if path != "/" else 0
