"""The files of deploy/: forms that their readers accept, the settings of cluster.yaml, what each must have.

Ray's own check needs the ray package and starts nothing. KubeRay's and SkyPilot's schemas are not here: names of fields
are compared with those that KubeRay 1.6 and 1.7, SkyPilot 0.14 know. `make test-slurm` and `make test-image` run two.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.ray.cluster_config import read_cluster_config
from tests.cluster.image import Instruction, instructions, is_sent, sources
from tests.ray.test_cluster_yaml import check_by_ray

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SBATCH = DEPLOY / "slurm" / "arsched.sbatch"
CLOUDS = ("aws", "gcp")
SETTING = re.compile(r"\b(RAY_\w+)=(\S+)")
Settings = dict[str, Any]


def load(path: str) -> Settings:
    loaded: Settings = yaml.safe_load((DEPLOY / path).read_text())
    return loaded


def started_with(settings: Settings, role: str) -> dict[str, str]:
    """The RAY_ variables that a cluster.yaml starts Ray with."""
    return dict(SETTING.findall(settings[f"{role}_start_ray_commands"][-1]))


def of_cluster_yaml(role: str) -> dict[str, str]:
    return started_with(yaml.safe_load((ROOT / "cluster.yaml").read_text()), role)


def of_slurm() -> dict[str, str]:
    exports = re.findall(r"^export (.*?)(?:  #.*)?$", SBATCH.read_text(), re.MULTILINE)
    return dict(SETTING.findall(" ".join(exports)))


def kube_cluster() -> Settings:
    _, cluster = yaml.safe_load_all((DEPLOY / "kubernetes" / "raycluster.yaml").read_text())
    return cluster  # type: ignore[no-any-return]


def pods() -> dict[str, Settings]:
    spec = kube_cluster()["spec"]
    (workers,) = spec["workerGroupSpecs"]
    return {"head": spec["headGroupSpec"]["template"]["spec"], "worker": workers["template"]["spec"]}


def of_kubernetes(role: str) -> dict[str, str]:
    settings = {each["name"]: each["value"] for each in pods()[role]["containers"][0]["env"]}
    return settings | {"RAY_AUTH_MODE": kube_cluster()["spec"]["authOptions"]["mode"]}  # the operator sets that one


@pytest.mark.parametrize(
    ("settings", "role"),
    [
        (of_slurm, "head"),
        (lambda: of_kubernetes("head"), "head"),
        (lambda: of_kubernetes("worker"), "worker"),
        (lambda: load("skypilot/arsched.yaml")["envs"], "head"),
        *((lambda cloud=cloud, role=role: started_with(load(f"{cloud}/cluster.yaml"), role), role)
          for cloud in CLOUDS for role in ("head", "worker")),
    ],
    ids=["slurm", "kube-head", "kube-worker", "skypilot", *(f"{c}-{r}" for c in CLOUDS for r in ("head", "worker"))],
)  # fmt: skip
def test_ray_is_started_with_the_settings_of_cluster_yaml(settings: Callable[[], dict[str, str]], role: str) -> None:
    wanted = of_cluster_yaml(role)
    assert "RAY_worker_niceness" in wanted
    assert {name: settings().get(name) for name in wanted} == wanted


FLAG = re.compile(r"(?<=\s)--(?!head\b|port\b|address\b|node-ip-address\b|autoscaling-config\b)[\w-]+(?:=\w+)?")


def flags_of_kubernetes(role: str) -> set[str]:
    spec = kube_cluster()["spec"]
    group = spec["headGroupSpec"] if role == "head" else spec["workerGroupSpecs"][0]
    statistics = of_kubernetes(role)["RAY_USAGE_STATS_ENABLED"] == "0"  # the flag's variable
    return {f"--{name}={value}" for name, value in group["rayStartParams"].items()} | (
        {"--disable-usage-stats"} if statistics else set()
    )


def flags_of_skypilot(role: str) -> set[str]:
    head, worker = load("skypilot/arsched.yaml")["run"].split("else\n")
    return set(FLAG.findall(head if role == "head" else worker))


def flags_of_slurm(role: str) -> set[str]:
    text = SBATCH.read_text().replace("of_the_head=", "of_the_head= " if role == "head" else "of_the_head=")
    return set(FLAG.findall(text[text.index("bash -c") :]))


def flags_of_cluster_yaml(settings: Settings, role: str) -> set[str]:
    return set(FLAG.findall(settings[f"{role}_start_ray_commands"][-1]))


@pytest.mark.parametrize("role", ["head", "worker"])
def test_ray_is_started_with_the_flags_of_cluster_yaml(role: str) -> None:
    wanted = flags_of_cluster_yaml(yaml.safe_load((ROOT / "cluster.yaml").read_text()), role)
    assert "--disable-usage-stats" in wanted and ("--include-dashboard=false" in wanted) == (role == "head")
    for found in (
        flags_of_slurm(role),
        flags_of_skypilot(role),
        flags_of_kubernetes(role),
        *(flags_of_cluster_yaml(load(f"{cloud}/cluster.yaml"), role) for cloud in CLOUDS),
    ):
        assert wanted <= found
        assert role == "head" or "--include-dashboard=false" not in found, "Ray refuses it on a worker"


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_accepts_a_clouds_file(cloud: str) -> None:
    prepared = check_by_ray(load(f"{cloud}/cluster.yaml"))
    assert prepared["provider"]["type"] == cloud
    wrong = load(f"{cloud}/cluster.yaml")
    wrong["available_node_types"]["worker"]["min_worker"] = 1
    with pytest.raises(Exception, match="min_worker"):
        check_by_ray(wrong)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_doctor_calls_no_problem_in_a_clouds_file(cloud: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").touch()
    settings = load(f"{cloud}/cluster.yaml")
    for here in settings["file_mounts"].values():
        if not here.startswith("~"):
            assert (ROOT / here).exists()
            (tmp_path / here).touch()
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(settings))
    assert read_cluster_config(tmp_path / "cluster.yaml").problems == ()
    del settings["auth"]["ssh_user"]
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(settings))
    assert len(read_cluster_config(tmp_path / "cluster.yaml").problems) == 1


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_clouds_file_keeps_its_workers_and_a_head_that_stays(cloud: str) -> None:
    settings, ours = load(f"{cloud}/cluster.yaml"), yaml.safe_load((ROOT / "cluster.yaml").read_text())
    types = settings["available_node_types"]
    head, worker = types[settings["head_node_type"]], types["worker"]
    assert worker["min_workers"] == worker["max_workers"] == settings["max_workers"]
    spot = ("InstanceMarketOptions", "provisioningModel")
    assert any(word in str(worker) for word in spot) and not any(word in str(head) for word in spot)
    assert settings["file_mounts"] == ours["file_mounts"]
    assert [command for command in ours["setup_commands"] if command not in settings["setup_commands"]] == []


def test_the_batch_script_is_whole() -> None:
    subprocess.run(["bash", "-n", str(SBATCH)], check=True)
    text = SBATCH.read_text()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?", text, re.MULTILINE))
    assert (
        options["ntasks-per-node"] == "1" and "exclusive" in options
    )  # Ray refuses a second one, `ray stop` ends both
    assert options["signal"].startswith("B:USR1@") and "trap leave USR1 TERM" in text
    assert not re.search(r"symmetric-run[^\n]*--(head|port|block|node-ip-address)\b", text), "symmetric-run refuses it"
    first = next(number for number, line in enumerate(text.splitlines()) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in text.splitlines()[first:]), "Slurm reads none after a command"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"SLURM_ARRAY_TASK_COUNT": "2"}, "a job array"),
        ({"ARSCHED": "/nonexistent"}, "no arsched in /nonexistent/.venv"),
    ],
)
def test_a_job_that_cannot_work_says_so_before_it_starts_anything(environ: dict[str, str], words: str) -> None:
    surroundings = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "SLURM_SUBMIT_DIR": "/", **environ}
    done = subprocess.run(["bash", str(SBATCH)], env=surroundings, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(words) and done.stderr.count("\n") == 1


def test_pods_are_made_of_fields_that_exist() -> None:
    spec = kube_cluster()["spec"]
    known = {"rayVersion", "enableInTreeAutoscaling", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    assert set(spec) <= known and spec["authOptions"] == {"mode": "token"}
    assert set(spec["headGroupSpec"]) <= {"rayStartParams", "template"}
    (workers,) = spec["workerGroupSpecs"]
    group = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    assert set(workers) == group and workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"]
    pod = {"securityContext", "initContainers", "containers", "volumes", "tolerations"}
    container = {"name", "image", "workingDir", "args", "env", "ports", "readinessProbe", "livenessProbe", "resources"}
    for each in pods().values():
        assert set(each) <= pod
        for inner in (*each["initContainers"], *each["containers"]):
            assert set(inner) <= container | {"volumeMounts"}


def test_pods_hold_what_a_run_needs() -> None:
    images = set()
    for role, pod in pods().items():
        (container,) = pod["containers"]
        images |= {container["image"], *(each["image"] for each in pod["initContainers"])}
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) == volumes and {"/dev/shm", "/home/arsched/.cache"} <= set(mounts)
        # The operator's own probes need ray[default], which arsched does not install.
        assert container["readinessProbe"] and container["livenessProbe"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        gpus = int(container["resources"]["limits"].get("nvidia.com/gpu", "0"))
        assert (gpus > 0) == (role == "worker")
    assert len(images) == 1
    version = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert version and kube_cluster()["spec"]["rayVersion"] == version[1]


def test_skypilot_gets_fields_that_exist() -> None:
    task = load("skypilot/arsched.yaml")
    assert set(task) <= {"name", "workdir", "num_nodes", "resources", "envs", "file_mounts", "setup", "run"}
    assert set(task["resources"]) <= {"accelerators", "cpus", "memory", "disk_size", "use_spot"}
    assert all(isinstance(value, str) for value in task["envs"].values())
    for script in (task["setup"], task["run"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        assert "ray stop" not in script, "it would end SkyPilot's own Ray"
    assert task["resources"]["use_spot"] is False  # the lab is on the first node


def dockerfile() -> list[Instruction]:
    return instructions((DEPLOY / "Dockerfile").read_text())


def test_everything_that_the_image_copies_exists_and_is_sent() -> None:
    ignore = (ROOT / ".dockerignore").read_text()
    assert ignore.splitlines()[1] == "*"
    copied = [source for each in dockerfile() if each.name == "COPY" for source in sources(each)]
    for source in copied:
        assert (ROOT / source).exists() and is_sent(source, ignore), source
    assert not is_sent("tests", ignore) and not is_sent("harnesses", ignore)
    for needed in ("train.py", "program.md", "candidates/README.md", "pyproject.toml", "constraints.txt", "harness"):
        assert needed in copied


def test_the_image_runs_arsched_as_an_ordinary_user() -> None:
    steps = dockerfile()
    assert steps[0].name == "FROM" and Instruction("ENTRYPOINT", '["arsched"]') in steps
    (user,) = [number for number, each in enumerate(steps) if each.name == "USER"]
    assert steps[user].text not in ("root", "0")
    assert not any(each.name == "RUN" for each in steps[user:]), "what is installed belongs to root"


def test_a_dockerfile_is_read_as_docker_reads_it() -> None:
    text = "# a\nFROM x\nRUN one \\\n    # said between\n    two && \\\n  three\n\nCOPY a b ./\n"
    run, copy_ = instructions(text)[1:]
    assert run == Instruction("RUN", "one two && three") and sources(copy_) == ["a", "b"]


PAGES = sorted((ROOT / "docs" / "elsewhere").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_short_names_its_file_and_says_what_is_not_tried(page: Path) -> None:
    text = page.read_text()
    assert len(text.splitlines()) <= 60 and "## What is tried" in text and "Not tried:" in text
    named = re.findall(r"deploy/[\w/.]+\w", text)
    assert named and all((ROOT / path).exists() for path in named)
    assert f"docs/elsewhere/{page.name}" in (ROOT / "README.md").read_text()


def test_every_file_of_deploy_has_a_page() -> None:
    text = " ".join(page.read_text() for page in PAGES)
    assert [path for path in DEPLOY.rglob("*") if path.is_file() and str(path.relative_to(ROOT)) not in text] == []
