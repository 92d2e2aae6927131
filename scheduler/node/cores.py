"""Which cores of a node go with which GPU: as many for each, near it, no physical core for two.

Pure but for `read_groups` and `read_local_cpus`, which read sysfs. Pinning a run to its cores is the judge's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

SYSTEM = Path("/sys/devices/system/cpu")
PCI = Path("/sys/bus/pci/devices")

Group = tuple[int, ...]  # logical cores of one physical one


def order_cores(groups: Sequence[Group]) -> tuple[tuple[int, ...], int]:
    """One of each physical core first, so that as few slots as possible share one; and how many physical ones."""
    later = sorted(core for group in groups for core in group[1:])
    return (*sorted(group[0] for group in groups), *later), len(groups)


def share_cores(groups: Sequence[Group], near: Sequence[Iterable[int]]) -> tuple[tuple[int, ...], ...]:
    """As many logical cores for each GPU as for every other; `near`: those of each GPU's NUMA node, none if unknown.

    Physical cores go whole to one GPU, and what a node has too few of is spread evenly over its GPUs. Where there are
    fewer physical cores than GPUs, logical ones are given out; fewer of those than GPUs: all share all.
    """
    cores = sorted(core for group in groups for core in group)
    if len(groups) < len(near):
        groups = [(core,) for core in cores]
    share = len(groups) // max(len(near), 1)
    if share == 0:
        return tuple(tuple(cores) for _ in near)
    left, given = sorted(groups), [list[Group]() for _ in near]
    alike: dict[frozenset[int], list[int]] = {}
    for index, its in enumerate(near):
        alike.setdefault(frozenset(its), []).append(index)
    for local in sorted(alike, key=len):  # those with the fewest to choose from first
        here = [group for group in left if local & set(group)]
        _deal(here, alike[local], share, given)
        left = [group for group in left if not any(group in its for its in given)]
    for taken in given:
        missing = share - len(taken)
        taken += left[:missing]
        left = left[missing:]
    return _evened(given)


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """A list of the kernel's like "0-3,64". Raises ValueError."""
    found: set[int] = set()
    for part in text.strip().split(",") if text.strip() else ():
        low, _, high = part.partition("-")
        found |= set(range(int(low), int(high or low) + 1))
    return tuple(sorted(found))


def spell_cpu_list(cores: Iterable[int]) -> str:
    """Like "0-3,64"."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def read_groups(cores: Iterable[int], system: Path = SYSTEM) -> tuple[Group, ...]:
    """These logical cores by physical core; each alone where the kernel does not say."""
    usable, groups = sorted(cores), dict[int, Group]()
    for core in usable:
        siblings: tuple[int, ...] = ()
        with suppress(OSError, ValueError):
            siblings = parse_cpu_list((system / f"cpu{core}" / "topology" / "thread_siblings_list").read_text())
        group = tuple(one for one in usable if one in siblings) or (core,)
        groups.setdefault(group[0], group)
    return tuple(groups.values())


def read_local_cpus(bus_id: str, pci: Path = PCI) -> tuple[int, ...]:
    """Cores of a PCI device's NUMA node; none where the machine has one node alone or does not say.

    `bus_id`: like "00000000:17:00.0", as NVML spells it.
    """
    domain, _, rest = bus_id.lower().partition(":")
    device = pci / f"{domain[-4:]}:{rest}"
    with suppress(OSError, ValueError):
        if int((device / "numa_node").read_text()) >= 0:
            return parse_cpu_list((device / "local_cpulist").read_text())
    return ()


def _deal(here: list[Group], indexes: list[int], share: int, given: list[list[Group]]) -> None:
    """Physical cores of one NUMA node to its GPUs: neighbours together, as even as it goes, `share` at most."""
    each, extra = divmod(len(here), len(indexes))
    for place, index in enumerate(indexes):
        taken = min(share, each + (place < extra))
        given[index] += here[:taken]
        del here[:taken]


def _evened(given: list[list[Group]]) -> tuple[tuple[int, ...], ...]:
    """Where some physical cores have fewer threads to use than others, second threads are left out until all have as
    many logical cores."""
    least = min((sum(map(len, its)) for its in given), default=0)
    shares = []
    for its in given:
        firsts = [group[0] for group in its]
        others = [core for group in its for core in group[1:]]
        shares.append(tuple(sorted([*firsts, *others[: least - len(firsts)]])))
    return tuple(shares)
