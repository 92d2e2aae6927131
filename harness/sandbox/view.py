"""What of the machine a confined program sees: an allow-list, made from facts alone; the disk is not read.

Every path is absolute; one that does not exist is left out later. Making it so: harness.sandbox.mounts by mounts,
harness.sandbox.landlock by access rights.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

# read, write: the file or folder as it is, read-only or not. device: a node that may be opened and controlled.
# fresh: an empty tmpfs with `options`. cover: nothing to see there, within something that is visible. link: a symbolic
# link to `options`.
Kind = Literal["read", "write", "device", "fresh", "cover", "link"]


@dataclass(frozen=True, slots=True)
class Exposure:
    """One place of a view. `options`: of a tmpfs, or a link's target."""

    path: str
    kind: Kind
    options: str = ""


@dataclass(frozen=True, slots=True)
class ViewFacts:
    """What a candidate's view follows from.

    `import_path`: folders that its interpreter imports from; `environment`: the candidate's own; `cache_files`: what of
    the cache it may read; `devices`: nodes of its one GPU; `out`: the output folder, which it may not see;
    `hidden_packages`: top-level packages whose text it may not read.
    """

    harness: str
    executable: str
    prefixes: tuple[str, ...]
    import_path: tuple[str, ...]
    environment: Mapping[str, str]
    scratch: str
    out: str
    cache_root: str
    cache_files: tuple[str, ...]
    devices: tuple[str, ...] = ()
    hidden_packages: tuple[str, ...] = ()


SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store", "/sys")
_ETC = (
    *("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "passwd", "group", "nsswitch.conf", "localtime"),
    *("timezone", "hosts", "host.conf", "protocols", "services", "OpenCL", "glvnd", "vulkan", "ssl/certs"),
    *("ssl/cert.pem", "ssl/openssl.cnf", "pki/tls/certs", "pki/tls/openssl.cnf", "pki/ca-trust/extracted"),
    *("ca-certificates", "mime.types", "debian_version", "os-release", "machine-id", "locale.alias", "gai.conf"),
    *("libibverbs.d", "nccl.conf"),
)
# Not the whole prefix: conda keeps copies of packages in pkgs/ and other environments in envs/.
_PREFIX_PARTS = (
    *("bin", "lib", "lib32", "lib64", "include", "share", "libexec", "etc", "ssl", "nvvm", "targets", "pyvenv.cfg"),
    *("x86_64-conda-linux-gnu", "aarch64-conda-linux-gnu"),
)
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}
_FOLDER_LISTS = ("PATH", "LD_LIBRARY_PATH", "CPATH", "LIBRARY_PATH", "TRITON_LIBCUDA_PATH")
_FOLDERS = ("CUDA_HOME", "CUDA_PATH")
_SHARED_MEMORY, _TEMPORARY = "size=25%,nr_inodes=200k,mode=1777", "size=1g,nr_inodes=200k,mode=1777"
# Where else a distribution or conda keeps packages that are visible below SYSTEM; `*` is any one name.
PACKAGE_PLACES = (
    *("/usr/lib/python3*/dist-packages", "/usr/lib/python3*/site-packages", "/usr/lib64/python3*/site-packages"),
    *("/usr/local/lib/python3*/dist-packages", "/usr/local/lib/python3*/site-packages", "/usr/share/python-wheels"),
    *("/opt/*/lib/python3*/site-packages", "/opt/*/envs/*/lib/python3*/site-packages"),
    *("/opt/*/pkgs/*/site-packages", "/opt/*/pkgs/*/lib/python3*/site-packages"),
)


def candidate_view(facts: ViewFacts) -> tuple[Exposure, ...]:
    """Everything a candidate sees, in no order that matters; what is inside something else may be listed too."""
    read = [*SYSTEM, *(f"/etc/{name}" for name in _ETC), "/proc", *facts.cache_files]
    read += [f"{prefix}/{part}" for prefix in facts.prefixes for part in _PREFIX_PARTS]
    read += [facts.executable, facts.harness, *_of_environment(facts.environment)]
    read += [folder for folder in facts.import_path if folder != os.path.dirname(facts.harness) or _is_site(folder)]
    covers = [facts.cache_root, *_around(facts.out), *_hidden_places(facts)]
    if not _is_site(os.path.dirname(facts.harness)):
        covers.append(os.path.dirname(facts.harness))
    return (
        *(Exposure(path, "read") for path in read if os.path.isabs(path) and path != "/"),
        *(Exposure(path, "cover") for path in covers),
        *_devices(facts.devices),
        Exposure("/proc/self", "write"),  # CUDA names its threads there
        Exposure("/tmp", "fresh", _TEMPORARY),
        Exposure(facts.scratch, "write"),
    )


def _of_environment(environment: Mapping[str, str]) -> list[str]:
    """Folders that variables of a candidate's environment name."""
    found = [folder for name in _FOLDER_LISTS for folder in environment.get(name, "").split(os.pathsep)]
    found += [environment[name] for name in _FOLDERS if name in environment]
    found += [environment["TRITON_PTXAS_PATH"]] if "TRITON_PTXAS_PATH" in environment else []
    for name in ("CC", "CXX"):
        program = next(iter(_words(environment.get(name, ""))), "")
        if os.path.isabs(program):
            prefix = os.path.dirname(os.path.dirname(program))
            found += [program, *(f"{prefix}/{part}" for part in ("bin", "lib", "lib64", "libexec", "include"))]
    return found


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return []


def _around(out: str) -> list[str]:
    """The output folder, the run's folder around it, and the folder of all runs; not /opt or /usr/local with them."""
    parent = os.path.dirname(out)
    return [out, *(folder for folder in (parent, os.path.dirname(parent)) if folder.count("/") > 2)]


def _hidden_places(facts: ViewFacts) -> Iterable[str]:
    for folder in (*facts.import_path, *PACKAGE_PLACES):
        for name in facts.hidden_packages:
            yield f"{folder}/{name}"
            yield f"{folder}/{name}.py"


def _devices(gpu_nodes: tuple[str, ...]) -> Iterable[Exposure]:
    yield from (Exposure(f"/dev/{name}", "device") for name in _DEVICES)
    yield from (Exposure(path, "device") for path in gpu_nodes)
    yield from (Exposure(f"/dev/{name}", "link", f"/proc/self/fd{fd}") for name, fd in _DEVICE_LINKS.items())
    yield Exposure("/dev/shm", "fresh", _SHARED_MEMORY)


def _is_site(folder: str) -> bool:
    return os.path.basename(folder) in ("site-packages", "dist-packages")
