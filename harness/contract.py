"""The fixed benchmark as a value: corpus, lengths, budget and its clock, evaluation, noise prior.

A contract is a small YAML (or JSON) file read into frozen dataclasses; its digest is in every result. Covers reading
and checking; does not know where data lies (harness.cache) or who runs it. Standard library only: PyYAML is imported
when a YAML file is read, so a prepared node without it uses the JSON copy that `prepare` left in the cache.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Constant = int | float | str
BUILT_IN = ("cpu", "standard", "upstream")
_SHIPPED = Path(__file__).parent / "contracts"
_POSITIVE = (
    *("sequence_length", "tokenizer_chars", "pack_buffer_documents", "pack_refill_documents"),
    *("train_tokens", "evaluation_tokens", "threads", "noise_prior_bpb"),
)


class ContractError(Exception):
    """The contract cannot be used; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Corpus:
    """Where documents come from. `root`: "stdlib" or "prefix" (python), a dataset's repository (hub), or a folder.

    `document_chars`: long documents are cut near this length at line ends (0: never). Shard numbers are for `hub`.
    """

    kind: Literal["python", "hub", "folder"]
    root: str
    document_chars: int = 0
    train_shards: int = 0
    val_shard: int | None = None
    holdout_shard: int | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """Training budget in seconds of `clock`: wall time, or CPU time of the candidate's whole process tree.

    `grace_s` is what the last step may overshoot; `wall_limit_s` ends a candidate that lets the CPU clock stand still.
    """

    seconds: float
    clock: Literal["wall", "cpu"]
    grace_s: float
    wall_limit_s: float


@dataclass(frozen=True, slots=True)
class Limits:
    """Wall-clock limits of the phases outside the budget, in seconds, and of the log, in MB (2**20 bytes)."""

    startup_s: float
    evaluation_s: float
    teardown_s: float
    log_mb: float


@dataclass(frozen=True, slots=True)
class Contract:
    """One fixed benchmark. Token counts are packed tokens; `noise_prior_bpb` is a run's expected standard deviation."""

    name: str
    summary: str
    device: Literal["cpu", "cuda"]
    corpus: Corpus
    sequence_length: int
    vocab_size: int
    tokenizer_chars: int
    pack_buffer_documents: int
    pack_refill_documents: int
    train_tokens: int
    evaluation_tokens: int
    holdout_tokens: int
    budget: Budget
    limits: Limits
    threads: int
    noise_prior_bpb: float
    compat: Literal["none", "upstream"] = "none"
    train_constants: tuple[tuple[str, Constant], ...] = ()

    @property
    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON of all fields."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON: keys sorted, no spaces. `from_json` is its inverse."""
        plain = dataclasses.asdict(self) | {"train_constants": dict(self.train_constants)}
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> Contract:
        """Raises ContractError when the text is no contract."""
        try:
            raw = json.loads(text)
        except ValueError as problem:
            raise ContractError(f"the contract is not JSON: {problem}") from None
        return parse_contract(raw)


def load_contract(reference: str) -> Contract:
    """A contract by built-in name or by the path of a .yaml, .yml or .json file. Raises ContractError."""
    if reference in BUILT_IN:
        return _load_built_in(reference)
    path = Path(reference)
    if path.suffix not in (".yaml", ".yml", ".json"):
        near = difflib.get_close_matches(reference, BUILT_IN, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ContractError(
            f"no contract {reference!r}", f"{hint}built in: {', '.join(BUILT_IN)}; or the path of a .yaml file"
        )
    return _load_file(path)


def parse_contract(raw: Any, source: str = "contract") -> Contract:
    """Plain data (as YAML or JSON gives it) to a Contract. Raises ContractError naming the key that is wrong."""
    contract: Contract = _build(Contract, raw, source)
    _check_ranges(contract, source)
    return contract


def _load_built_in(name: str) -> Contract:
    try:
        return _load_file(_SHIPPED / f"{name}.yaml")
    except ImportError:
        from harness.cache import cache_root

        copy = cache_root() / "contracts" / f"{name}.json"
        if copy.is_file():
            return _load_file(copy)
        hint = f"install PyYAML, or prepare the contract on this node: python -m harness.prepare --contract {name}"
        raise ContractError(f"contract {name!r}: reading YAML needs PyYAML, which is not installed", hint) from None


def _load_file(path: Path) -> Contract:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise ContractError(f"cannot read contract {path}: {problem}", "give the path of a contract file") from None
    if path.suffix == ".json":
        return Contract.from_json(text)
    import yaml

    try:
        return parse_contract(yaml.safe_load(text), str(path))
    except yaml.YAMLError as problem:
        raise ContractError(f"{path} is not YAML: {problem}") from None


def _build(cls: type, raw: Any, where: str) -> Any:
    if not isinstance(raw, dict):
        raise ContractError(f"{where}: expected keys and values, found {type(raw).__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in raw:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, 1)
            raise ContractError(
                f"{where}: unknown key {key!r}",
                f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(fields)}",
            )
    for name, field in fields.items():
        if name not in raw and field.default is dataclasses.MISSING:
            raise ContractError(
                f"{where}: the key {name!r} is missing", "copy a file of harness/contracts/ and edit it"
            )
    return cls(**{key: _value(hints[key], value, f"{where}: {key}") for key, value in raw.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if typing.get_origin(hint) is Literal:
        return _one_of(typing.get_args(hint), value, where)
    if typing.get_origin(hint) is tuple:
        return _constants(value, where)
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, kinds):
        wanted = " or ".join("null" if kind is types.NoneType else kind.__name__ for kind in kinds)
        raise ContractError(f"{where}: {value!r} is not allowed, expected {wanted}")
    return value


def _one_of(allowed: tuple[Any, ...], value: Any, where: str) -> Any:
    if value not in allowed:
        raise ContractError(f"{where}: {value!r} is not allowed, expected one of {', '.join(map(str, allowed))}")
    return value


def _constants(value: Any, where: str) -> tuple[tuple[str, Constant], ...]:
    if not isinstance(value, dict):
        raise ContractError(f"{where}: expected NAME: value pairs, found {type(value).__name__}")
    for name, constant in value.items():
        if not str(name).isidentifier() or isinstance(constant, bool) or not isinstance(constant, int | float | str):
            raise ContractError(f"{where}: {name}: {constant!r} is not a number or a string")
    return tuple(sorted(value.items()))


def _check_ranges(contract: Contract, source: str) -> None:
    for key in _POSITIVE:
        if getattr(contract, key) <= 0:
            raise ContractError(f"{source}: {key}: must be above 0, found {getattr(contract, key)}")
    for part in ("budget", "limits"):
        for key, value in dataclasses.asdict(getattr(contract, part)).items():
            if isinstance(value, float) and not 0 < value < float("inf"):
                raise ContractError(f"{source}: {part}: {key}: must be above 0, found {value}")
    if not 256 < contract.vocab_size <= 65_536:
        raise ContractError(
            f"{source}: vocab_size: must be 257 to 65536 (rows are 16-bit), found {contract.vocab_size}"
        )
    if contract.evaluation_tokens % contract.sequence_length:
        raise ContractError(
            f"{source}: evaluation_tokens: must be a multiple of sequence_length {contract.sequence_length}"
        )
