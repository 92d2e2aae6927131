"""The environment a candidate gets: an allow-list of the judge's, and what the contract prescribes.

Covers: which variables pass, private folders, thread counts, device visibility, offline switches, the compatibility
folder of contracts for upstream's own train.py. Not covered: making the folders.
"""

from __future__ import annotations

import os
import site
from pathlib import Path

from harness.attention import EXPECT_ENV, FA3_REPOSITORY, LOCAL_KERNELS_ENV
from harness.cache import Cache
from harness.judge.compile_caches import INDUCTOR, TRITON
from harness.judge.order import Order
from harness.judge.scratch import Scratch
from harness.protocol import JUDGE_FD_ENV
from harness.session import CONTRACT_ENV, SEED_ENV

_HARNESS = Path(__file__).resolve().parent.parent
_PASSED_ON = (
    *("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "CC", "CXX"),
    *("CPATH", "LIBRARY_PATH", "TRITON_PTXAS_PATH", "TRITON_LIBCUDA_PATH"),
)
_THREAD_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def candidate_environment(order: Order, cache: Cache, scratch: Scratch, judge_fd: int) -> dict[str, str]:
    """Everything in the candidate's environment; nothing else of the judge's passes."""
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return passed | _user_packages() | _folders(scratch) | _contract(order, cache, scratch, judge_fd) | _device(order)


def _folders(scratch: Scratch) -> dict[str, str]:
    return {
        "HOME": str(scratch.home),
        "TMPDIR": str(scratch.temporary),
        "XDG_CACHE_HOME": str(scratch.caches),
        "TORCHINDUCTOR_CACHE_DIR": str(scratch.caches / INDUCTOR),
        "TRITON_CACHE_DIR": str(scratch.caches / TRITON),
        "HF_HOME": str(scratch.caches / "huggingface"),
        "MPLCONFIGDIR": str(scratch.caches / "matplotlib"),
    }


def _contract(order: Order, cache: Cache, scratch: Scratch, judge_fd: int) -> dict[str, str]:
    upstream = [str(_HARNESS / "upstream")] if order.contract.compat == "upstream" else []
    values = {
        "PYTHONPATH": os.pathsep.join([*upstream, str(_HARNESS.parent), *_carried_packages()]),
        "PYTHONUNBUFFERED": "1",  # the last lines before a kill are the ones that tell
        "PYTHONDONTWRITEBYTECODE": "1",  # the harness's own folder is not the candidate's to write to
        "PYTHONHASHSEED": "0",
        "ARSCHED_CACHE": str(cache.directory.parent.resolve()),
        CONTRACT_ENV: str(scratch.contract_path),
        SEED_ENV: str(order.seed),
        JUDGE_FD_ENV: str(judge_fd),
    }
    if order.expect_attention is not None:
        values[EXPECT_ENV] = order.expect_attention
    if cache.kernel_dir is not None:
        values[LOCAL_KERNELS_ENV] = f"{FA3_REPOSITORY}={cache.kernel_dir}"
    return values | dict.fromkeys(_THREAD_COUNTS, str(order.contract.threads))


def _carried_packages() -> list[str]:
    """Folders of PYTHONPATH that pip filled (`pip install --target`): torch may lie there."""
    folders = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(folder)]
    return [folder for folder in folders if next(Path(folder).glob("*.dist-info"), None) is not None]


def _user_packages() -> dict[str, str]:
    """`pip install --user` puts packages below the home folder, and a candidate has another one."""
    return {"PYTHONUSERBASE": site.getuserbase()} if site.ENABLE_USER_SITE else {}


def _device(order: Order) -> dict[str, str]:
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return offline | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": visible_devices(order)}


def visible_devices(order: Order) -> str:
    """CUDA_VISIBLE_DEVICES for judge and candidate alike: nothing on a CPU contract, else one device."""
    if order.device is None:
        return ""
    if order.device != "auto":
        return order.device
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
