"""One run's confinement: what this judge's candidate may see, from this process, its arguments and the disk.

Which GPU node belongs to a device is read from the driver's /proc files.
"""

from __future__ import annotations

import glob
import os
import re
import site
import sys
from pathlib import Path

from harness.cache import CONTRACT_NAME, MANIFEST_NAME, Cache
from harness.files import cache_root
from harness.gpu_record import RECORDS_FOLDER
from harness.judge.arguments import JudgeArgs
from harness.judge.report import InfraFailure
from harness.sandbox.confinement import Confinement
from harness.sandbox.view import ViewFacts, candidate_view

_HARNESS = Path(__file__).resolve().parent.parent
_NVIDIA = Path("/proc/driver/nvidia")
_SHARED_NODES = (
    *("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset", "/dev/nvidia-caps"),
    "/dev/dxg",  # WSL
)


def confinement_of(args: JudgeArgs, cache: Cache, scratch: Path, environment: dict[str, str]) -> Confinement:
    """What to confine this run's candidate to. Raises InfraFailure when its GPU's node is not known."""
    allowed = [cache.tokenizer_path, cache.token_bytes_path, cache.token_bytes_upstream_path]
    allowed += [cache.directory / MANIFEST_NAME, cache.directory / CONTRACT_NAME, cache_root() / RECORDS_FOLDER]
    allowed += [] if cache.kernel_dir is None else [cache.kernel_dir]
    hidden = hidden_packages(args)
    facts = ViewFacts(
        harness=str(_HARNESS),
        executable=sys.executable,
        prefixes=tuple(dict.fromkeys((sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix))),
        import_path=import_folders(sys.path, os.environ.get("PYTHONPATH", ""), environment["PYTHONPATH"]),
        environment=environment,
        scratch=os.path.realpath(scratch),
        out=os.path.realpath(args.out),
        cache_root=os.path.realpath(cache_root()),
        cache_files=tuple(map(str, allowed)),
        devices=() if args.device is None else gpu_nodes(args.visible_devices),
        hidden_packages=hidden,
    )
    return Confinement(
        level=args.sandbox,
        judge_pid=os.getpid(),
        scratch=facts.scratch,
        exposures=candidate_view(facts),
        unreadable=(str(cache.val_rows_path), str(cache.holdout_rows_path), *_text_of(hidden, facts.import_path)),
        unwritable=(str(_HARNESS / "shim.py"), str(cache.tokenizer_path)),
    )


def hidden_packages(args: JudgeArgs) -> tuple[str, ...]:
    """Top-level packages whose source is the contract's corpus, and so out of a candidate's sight."""
    corpus = args.contract.corpus
    if getattr(corpus, "kind", "") != "packages":
        return ()
    names = re.split(r"[,\s]+", str(corpus.root or ""))
    return tuple(name for name in names if name.isidentifier())


def import_folders(path: list[str], given: str, passed_on: str) -> tuple[str, ...]:
    """Folders of this interpreter's sys.path that a candidate's has as well: not the working directory, and of the
    judge's PYTHONPATH (`given`) only what is in the candidate's (`passed_on`)."""
    foreign = {os.path.abspath(folder) for folder in given.split(os.pathsep) if folder} | {os.getcwd()}
    foreign -= set(passed_on.split(os.pathsep))
    folders = [os.path.abspath(folder) for folder in path if os.path.isabs(folder)]
    site_folders = {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(dict.fromkeys(f for f in folders if f not in foreign or f in site_folders))


def gpu_nodes(visible: str, nvidia: Path = _NVIDIA, dev: str = "/dev") -> tuple[str, ...]:
    """Device nodes of the GPU that `visible` names: a UUID, or an index in PCI order. Raises InfraFailure."""
    shared = tuple(f"{dev}/{os.path.basename(node)}" for node in _SHARED_NODES)
    nodes = sorted(path for path in glob.glob(f"{dev}/nvidia*") if re.fullmatch(r"nvidia\d+", os.path.basename(path)))
    gpus = []
    for folder in sorted(nvidia.glob("gpus/*")):
        text = (folder / "information").read_text(encoding="utf-8", errors="replace")
        uuid, minor = (re.search(rf"^{key}:\s*(\S+)", text, re.MULTILINE) for key in ("GPU UUID", "Device Minor"))
        gpus.append((uuid.group(1) if uuid else "", f"{dev}/nvidia{minor.group(1)}" if minor else ""))
    named = [node for uuid, node in gpus if uuid and uuid == visible]
    if not named and visible.isdigit() and int(visible) < len(gpus):
        named = [gpus[int(visible)][1]]
    if not (named and named[0]) and len(nodes) > 1:  # one alone, or WSL's /dev/dxg, needs no name
        raise InfraFailure("sandbox", f"{nvidia}/gpus does not tell which /dev/nvidiaN is {visible} (--sandbox off)")
    return (*shared, *(named if named and named[0] else nodes))


def _text_of(packages: tuple[str, ...], folders: tuple[str, ...]) -> tuple[str, ...]:
    """One file of each hidden package that is installed."""
    files = (f"{folder}/{name}/__init__.py" for folder in folders for name in packages)
    return tuple(file for file in files if os.path.exists(file))
