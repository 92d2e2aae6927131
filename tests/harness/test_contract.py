"""Contracts: what is read is what was written, and every mistake a person can make is named with its place."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.cache import CacheMissing
from harness.contract import Contract, ContractError, describe_references, is_shipped, load_contract, shipped_names
from scheduler.policy.constants import read_constants, rewrite_constants
from tests.harness.small_corpus import HUB, small_fields, write_contract

ROOT = Path(__file__).resolve().parents[2]


def read(**changes: Any) -> Contract:
    return Contract.from_json(json.dumps(small_fields(**changes)))


def complaint(**changes: Any) -> str:
    with pytest.raises(ContractError) as caught:
        read(**changes)
    return f"{caught.value} | {caught.value.hint}"


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_contract_survives_json(name: str) -> None:
    contract = load_contract(name)
    assert contract.name == name
    assert Contract.from_json(contract.to_json()) == contract
    assert Contract.from_json(contract.to_json()).digest == contract.digest


def test_the_shipped_contracts_are_the_benchmarks_they_claim_to_be() -> None:
    standard, upstream, small, cpu = (load_contract(name) for name in ("standard", "upstream", "small", "cpu"))
    assert (standard.sequence_length, standard.vocab_size, standard.budget.seconds) == (2048, 8192, 300)
    assert standard.evaluation_tokens == 40 * 524_288
    assert (standard.corpus.val_shard, standard.corpus.root) == (6542, "karpathy/climbmix-400b-shuffle")
    assert upstream.corpus == standard.corpus and upstream.compat == "upstream"
    assert upstream.budget.training_s == standard.budget.seconds, "as upstream's own TIME_BUDGET"
    assert upstream.budget.margin_s == 120, "its compilation lies inside its budget"
    assert (small.device, small.budget.seconds, small.budget.clock) == ("cuda", 300, "wall")
    same = {"train_shards": small.corpus.train_shards}
    assert small.corpus == dataclasses.replace(standard.corpus, **same), "the same text is held out"
    assert small.corpus.train_shards < standard.corpus.train_shards
    assert small.evaluation_tokens < standard.evaluation_tokens
    assert (cpu.device, cpu.budget.clock, cpu.threads) == ("cpu", "work", 1)
    assert cpu.corpus.packages == ("ray",) and not standard.corpus.packages


@pytest.mark.parametrize("name", shipped_names())
def test_the_constants_of_a_shipped_contract_fit_train_py(name: str) -> None:
    contract = load_contract(name)
    wanted = dict(contract.train_constants)
    assert wanted.keys() == dict(load_contract("standard").train_constants).keys(), "none is left at another contract's"
    source = rewrite_constants((ROOT / "train.py").read_text(encoding="utf-8"), wanted)
    constants = read_constants(source)
    assert wanted.items() <= constants.items()
    assert constants["TOTAL_BATCH_SIZE"] % (constants["DEVICE_BATCH_SIZE"] * contract.sequence_length) == 0
    assert constants["DEPTH"] * constants["ASPECT_RATIO"] % constants["HEAD_DIM"] == 0
    assert constants["HEAD_DIM"] % 8 == 0 and constants["HEAD_DIM"] <= 256, "what flash kernels take"
    assert contract.sequence_length % 128 == 0, "whole blocks of FlexAttention"


def test_help_texts_name_every_shipped_contract() -> None:
    asked = ([sys.executable, "-m", "harness.prepare"], [sys.executable, "-m", "harness.judge"])
    for program in asked:
        said = subprocess.run([*program, "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert " ".join(describe_references().split()) in " ".join(said.split())


def test_the_table_of_contracts_has_a_column_for_every_shipped_contract() -> None:
    lines = (ROOT / "docs" / "contracts.md").read_text(encoding="utf-8").splitlines()
    header = next(line for line in lines if line.startswith("| | `standard`"))
    assert sorted(header.replace("`", "").replace("|", " ").split()) == list(shipped_names())


def test_a_file_that_borrows_a_shipped_name_is_not_that_contract() -> None:
    assert all(is_shipped(load_contract(name)) for name in shipped_names())
    borrowed = read(name="standard")
    assert not is_shipped(borrowed)
    assert "standard'" in CacheMissing("", borrowed).hint and "FILE" in CacheMissing("", borrowed).hint
    assert CacheMissing("", load_contract("standard")).hint.endswith("--contract standard")


def test_the_digest_feels_every_field() -> None:
    base = read()
    for field in dataclasses.fields(base):
        value = getattr(base, field.name)
        if isinstance(value, int | float):
            changed: Any = value * 2 + 1
        elif isinstance(value, tuple):
            changed = (*value, ("NEW", 1))
        elif isinstance(value, str):
            changed = value + "x"
        elif value is None:
            changed = 0.5
        else:
            changed = dataclasses.replace(value, **{dataclasses.fields(value)[0].name: "x"})
        assert dataclasses.replace(base, **{field.name: changed}).digest != base.digest, field.name


def test_the_order_of_keys_and_the_spelling_of_numbers_do_not_matter() -> None:
    turned = dict(reversed(small_fields(budget__seconds=1.0).items()))
    assert Contract.from_json(json.dumps(turned)).digest == read().digest


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sequence_lenght": 4}, ["unknown key 'sequence_lenght'", "'sequence_length'"]),
        ({"budget__secnds": 4}, ["unknown key 'budget.secnds'", "'seconds'"]),
        ({"vocab_size": "many"}, ["vocab_size is 'many'", "whole number"]),
        ({"vocab_size": 3.5}, ["vocab_size is 3.5", "whole number"]),
        ({"vocab_size": True}, ["vocab_size is True"]),
        ({"vocab_size": 70_000}, ["vocab_size is 70000", "65536"]),
        ({"vocab_size": 200}, ["vocab_size is 200", "260"]),
        ({"noise_prior_bpb": "5e-3"}, ["noise_prior_bpb is '5e-3'", "0.001, not 1e-3"]),
        ({"noise_prior_bpb": float("nan")}, ["noise_prior_bpb is nan", "finite"]),
        ({"device": "gpu"}, ["device is 'gpu'", "cpu, cuda"]),
        ({"budget__clock": "wal"}, ["budget.clock is 'wal'", "did you mean 'wall'"]),
        ({"budget": 20}, ["budget is 20", "mapping"]),
        ({"budget__wall_limit_s": 1}, ["budget.wall_limit_s", "seconds + grace_s"]),
        ({"evaluation_tokens": 641}, ["evaluation_tokens is 641", "656"]),
        ({"name": "../../etc"}, ["name is '../../etc'", "letters"]),
        ({"train_constants": {"depth": 1}}, ["train_constants names 'depth'", "DEVICE_BATCH_SIZE"]),
        ({"train_constants": {"DEPTH": [1]}}, ["train_constants.DEPTH is [1]"]),
        ({"train_constants": 3}, ["train_constants is 3"]),
        ({"corpus": HUB | {"val_shard": None}}, ["two different shards"]),
        ({"corpus": HUB | {"holdout_shard": 9}}, ["two different shards"]),
        ({"corpus": HUB | {"holdout_shard": 1}}, ["outside the training shards"]),
        ({"corpus": HUB | {"root": "texts"}}, ["owner/name"]),
        ({"corpus__val_shard": 3}, ["only a hub corpus"]),
        ({"corpus__kind": "python"}, ["stdlib or prefix"]),
        ({"corpus__kind": "packages", "corpus__root": "ray, numpy"}, ["'ray, numpy'", "comma-separated"]),
        ({"corpus__kind": "packages", "corpus__root": "../ray"}, ["names to import"]),
        ({"corpus__kind": "packages", "corpus__root": "ray.data"}, ["names to import"]),
    ],
)
def test_a_mistake_is_named_with_its_key_and_its_cure(changes: dict[str, Any], words: list[str]) -> None:
    said = complaint(**changes)
    assert [word for word in words if word not in said] == [], said


def test_a_missing_key_is_named() -> None:
    fields = small_fields()
    del fields["limits"]["log_mb"]
    with pytest.raises(ContractError, match=r"missing key 'limits\.log_mb'"):
        Contract.from_json(json.dumps(fields))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.yaml", b"name: [", "is not YAML"),
        ("a.json", b"{", "is not JSON"),
        ("a.yaml", b"", "mapping"),
        ("a.yaml", b"\xff\xfe\x00", "not UTF-8"),
        ("a.yml", b"- 1\n- 2\n", "mapping"),
    ],
)
def test_a_file_that_is_no_contract(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ContractError) as caught:
        load_contract(str(tmp_path / name))
    assert words in f"{caught.value} {caught.value.hint}" and str(tmp_path / name) in str(caught.value)


def test_references_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ContractError) as caught:
        load_contract("standrad")
    assert "did you mean 'standard'" in caught.value.hint
    with pytest.raises(ContractError, match="No such file"):
        load_contract(str(tmp_path / "none.yaml"))


def test_a_folder_corpus_is_the_same_one_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_contract(tmp_path)
    contract = load_contract(str(path))
    assert contract.corpus.root == str(tmp_path.resolve() / "corpus")
    monkeypatch.chdir(tmp_path)
    assert load_contract("small.json").digest == contract.digest == Contract.from_json(contract.to_json()).digest


def test_a_prepared_node_reads_shipped_contracts_without_yaml(tmp_path: Path) -> None:
    asked = "import sys; sys.modules['yaml'] = None; from harness.contract import *\n"
    copy = tmp_path / "contracts" / "cpu.json"
    copy.parent.mkdir()
    run = [sys.executable, "-c", asked + "print(load_contract('cpu').digest)"]
    environment = {"ARSCHED_CACHE": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    missing = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert "PyYAML is not installed" in missing.stderr
    copy.write_text(load_contract("cpu").to_json())
    found = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == load_contract("cpu").digest
