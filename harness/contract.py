"""The fixed benchmark a candidate is held to: corpus, tokenizer, lengths, budget and limits, read once and checked.

Covers: the shipped contracts (harness/contracts/*.yaml), a contract file of one's own, and the digest that names a
contract everywhere. Not covered: the data it leads to (harness.cache, harness.prepare). Standard library only, so that
the scheduler can read a contract for nothing; PyYAML is imported when a reference is YAML, and a prepared node does
without it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from harness.fields import Between, FieldError, nearest, read_dataclass
from harness.files import cache_root

_SHIPPED = Path(__file__).resolve().parent / "contracts"
SPECIAL_TOKENS = 4  # <|reserved_0|> … <|reserved_3|>; the first one begins every document
_SMALLEST_VOCAB = 256 + SPECIAL_TOKENS

Count = Annotated[int, Between(1, 10**12)]
Seconds = Annotated[float, Between(0.1, 7 * 86_400)]


class ContractError(Exception):
    """A contract that cannot be used: the message says where and what, `hint` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Corpus:
    """Where documents come from.

    kind packages: `root` is a comma-separated list of installed Python packages, whose sources are the corpus; a
    candidate needs none of them, so a sandbox can hide their folders. kind hub: `root` is a data set repository whose
    files are named shard_00000.parquet. kind folder: `root` is a folder of .parquet (column `text`), .jsonl (field
    `text`) and .txt files. kind python: `root` is "stdlib" (sources of the running interpreter's standard library) or
    "prefix" (every source below sys.prefix as well); candidates can read that text, so scores on it can be forged.
    `document_chars`: documents longer than this are cut near it, at line ends; 0 leaves them whole.
    `train_shards`: hub: shards 0 … train_shards-1; else how many shards the training documents are dealt to.
    `val_shard`, `holdout_shard`: hub only, numbers of the shards that are never trained on.
    """

    kind: Literal["python", "packages", "hub", "folder"]
    root: str
    document_chars: Annotated[int, Between(0, 10**9)]
    train_shards: Annotated[int, Between(1, 100_000)]
    val_shard: Annotated[int, Between(0, 99_999)] | None = None
    holdout_shard: Annotated[int, Between(0, 99_999)] | None = None

    @property
    def packages(self) -> tuple[str, ...]:
        """Names, as they are imported, of the packages whose sources are the corpus; none for other kinds."""
        return tuple(self.root.split(",")) if self.kind == "packages" else ()


@dataclass(frozen=True, slots=True)
class Budget:
    """Training time, in seconds of `clock`: wall, cpu, or work; for the last two `wall_limit_s` bounds the wall time.

    cpu counts CPU seconds of the process tree. work counts them times the speed of the core meanwhile, as a share of
    its speed at calibration: a second of work is a CPU second of the machine at its fastest.

    A score needs no more than `seconds`. `grace_s` decides about the verdict alone: what asks for its evaluation later
    than that is a timeout. TIME_BUDGET is `margin_s` less (default: 5 %), so that a loop that looks at the clock
    before each step ends in time.
    """

    seconds: Seconds
    clock: Literal["wall", "cpu", "work"]
    grace_s: Annotated[float, Between(0, 86_400)]
    wall_limit_s: Seconds
    margin_s: Annotated[float, Between(0, 86_400)] | None = None

    @property
    def counts_cpu(self) -> bool:
        """Whether only what computes spends it; waiting is free."""
        return self.clock != "wall"

    @property
    def training_s(self) -> float:
        """TIME_BUDGET, as train.py sees it."""
        return self.seconds - (0.05 * self.seconds if self.margin_s is None else self.margin_s)


@dataclass(frozen=True, slots=True)
class Limits:
    """Wall seconds the other phases of a run may take, and how much of its log is kept (MB).

    `free_startup_s`: CPU seconds before the first training batch that cost nothing under a cpu or work clock; what
    is over is charged to the budget. None: all of `startup_s`.
    """

    startup_s: Seconds
    evaluation_s: Seconds
    teardown_s: Seconds
    log_mb: Annotated[float, Between(0.01, 10_000)]
    free_startup_s: Annotated[float, Between(0, 86_400)] | None = None


@dataclass(frozen=True, slots=True)
class Contract:
    """One benchmark. Two runs may be compared when their contracts, and the caches made from them, have one digest.

    `tokenizer_chars`: text the tokenizer is trained on, at most. `pack_*`: the best-fit packer's buffer, and how many
    documents enter it at a time. `*_tokens`: length of each prepared stream. `train_constants`: constants of train.py
    under this contract. `noise_prior_bpb`: standard deviation of val_bpb over runs of one program and seed at one time
    on one machine, as believed before any run; `noise_prior_seed_bpb`: of what a seed does to every program alike,
    None where nothing is known of it; `noise_prior_df`: how sure that is, as if it came from so many repeats.
    """

    name: str
    summary: str
    device: Literal["cpu", "cuda"]
    corpus: Corpus
    sequence_length: Annotated[int, Between(2, 1 << 20)]
    vocab_size: Annotated[int, Between(_SMALLEST_VOCAB, 1 << 16)]
    tokenizer_chars: Count
    train_tokens: Count
    evaluation_tokens: Count
    holdout_tokens: Count
    budget: Budget
    limits: Limits
    threads: Annotated[int, Between(1, 4096)]
    noise_prior_bpb: Annotated[float, Between(1e-9, 10)]
    noise_prior_seed_bpb: Annotated[float, Between(0, 10)] | None = None
    noise_prior_df: Annotated[float, Between(0.5, 1000)] = 4.0
    pack_buffer_documents: Annotated[int, Between(1, 10**6)] = 1000
    pack_refill_documents: Annotated[int, Between(1, 10**6)] = 128
    compat: Literal["none", "upstream"] = "none"
    train_constants: tuple[tuple[str, int | float | str], ...] = ()

    @property
    def digest(self) -> str:
        """sha256 (hex) of all fields in canonical JSON."""
        plain = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(plain.encode()).hexdigest()

    def to_json(self) -> str:
        """Readable JSON that `from_json` reads back into an equal contract."""
        fields = dataclasses.asdict(self) | {"train_constants": dict(self.train_constants)}
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Contract:
        """Raises ContractError."""
        try:
            return _read(json.loads(text), "contract")
        except ValueError as error:
            raise ContractError(f"not a JSON contract: {error}", "write it again with `arsched init`") from None


def load_contract(ref: str) -> Contract:
    """The contract called `ref`: the name of a shipped one, or the path of a .yaml, .yml or .json file.

    Raises ContractError, naming the file, the key, the value and what is allowed.
    """
    if ref in shipped_names():
        return _load_shipped(ref)
    path = Path(os.path.expanduser(ref))
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise ContractError(f"no contract {ref!r}", f"{nearest(ref, shipped_names())} or give the path of a .yaml file")
    return _load_file(path)


def shipped_names() -> tuple[str, ...]:
    """Names of the contracts that come with arsched."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.yaml")))


def is_shipped(contract: Contract) -> bool:
    """Whether its name alone names it: a file of one's own may be called like a shipped contract and be another."""
    try:
        return contract.name in shipped_names() and load_contract(contract.name) == contract
    except ContractError:  # a node that cannot read the shipped one has nothing to compare with
        return True


def describe_references() -> str:
    """What `load_contract` takes, for help texts: "cpu, …, or the path of a contract file"."""
    return f"{', '.join(shipped_names())}, or the path of a contract file"


def prepared_contract_path(name: str) -> Path:
    """The copy of a contract that `prepare` leaves for nodes that cannot read YAML."""
    return cache_root() / "contracts" / f"{name}.json"


def _load_shipped(name: str) -> Contract:
    """The file that comes with arsched; on a node without PyYAML the copy that `prepare` left there."""
    with contextlib.suppress(ImportError):
        import yaml  # noqa: F401

        return _load_file(_SHIPPED / f"{name}.yaml")
    path = prepared_contract_path(name)
    if not path.is_file():
        raise ContractError(
            f"contract {name!r} cannot be read: PyYAML is not installed and {path} is not there",
            f"pip install pyyaml, or run: python -m harness.prepare --contract {name}",
        )
    return _load_file(path)


def _load_file(path: Path) -> Contract:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ContractError(f"cannot read {path}: {error.strerror}", "check the path") from None
    except UnicodeDecodeError:
        raise ContractError(f"{path} is not UTF-8 text", "is it a contract?") from None
    return _read(_parse(path, text), str(path), path.resolve().parent)


def _parse(path: Path, text: str) -> object:
    try:
        if path.suffix == ".json":
            return json.loads(text)
        import yaml
    except ImportError:
        raise ContractError(f"{path} needs PyYAML, which is not installed", "pip install pyyaml") from None
    except ValueError as error:
        raise ContractError(f"{path} is not JSON: {error}", "mend it there") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ContractError(f"{path} is not YAML: {' '.join(str(error).split())}", "mend it there") from None


def _read(fields: object, source: str, folder: Path | None = None) -> Contract:
    try:
        contract = read_dataclass(Contract, _with_absolute_folder(fields, folder))
        _check(contract)
    except FieldError as error:
        raise ContractError(f"{source}: {error}", error.hint) from None
    return contract


def _with_absolute_folder(fields: object, folder: Path | None) -> object:
    """A folder corpus is written relative to its contract file, and means the same one wherever it is read again."""
    corpus: Any = fields.get("corpus") if isinstance(fields, Mapping) else None
    if folder is None or not isinstance(corpus, Mapping) or corpus.get("kind") != "folder":
        return fields
    root = (folder / os.path.expanduser(str(corpus.get("root", "")))).resolve()
    return {**fields, "corpus": {**corpus, "root": str(root)}}  # type: ignore[dict-item]


def _check(contract: Contract) -> None:
    """Rules between fields. Raises FieldError."""
    if not contract.name.replace("-", "").replace("_", "").isalnum() or len(contract.name) > 40:
        raise FieldError(f"name is {contract.name!r}", "letters, digits, - and _ only, at most 40: it names folders")
    for name in ("evaluation_tokens", "holdout_tokens"):
        tokens, length = getattr(contract, name), contract.sequence_length
        if tokens % length:
            raise FieldError(
                f"{name} is {tokens}", f"a multiple of sequence_length, like {-(-tokens // length) * length}"
            )
    budget = contract.budget
    if budget.wall_limit_s < budget.seconds + budget.grace_s:
        raise FieldError(f"budget.wall_limit_s is {budget.wall_limit_s:g}", "it must not be below seconds + grace_s")
    if budget.training_s <= 0:
        raise FieldError(f"budget.margin_s is {budget.margin_s:g}", "it must be below budget.seconds")
    _check_corpus(contract.corpus)


def _check_corpus(corpus: Corpus) -> None:
    apart = (corpus.val_shard, corpus.holdout_shard)
    if corpus.kind == "hub":
        if None in apart or apart[0] == apart[1]:
            raise FieldError(f"corpus.val_shard, holdout_shard are {apart}", "a hub corpus names two different shards")
        if any(shard is not None and shard < corpus.train_shards for shard in apart):
            raise FieldError(f"corpus.val_shard, holdout_shard are {apart}", "both lie outside the training shards")
        if corpus.root.count("/") != 1 or corpus.document_chars:
            raise FieldError(f"corpus.root is {corpus.root!r}", "a hub corpus is owner/name, with document_chars 0")
    elif apart != (None, None):
        raise FieldError(f"corpus.val_shard, holdout_shard are {apart}", "only a hub corpus has shards with numbers")
    if corpus.kind == "python" and corpus.root not in ("stdlib", "prefix"):
        raise FieldError(f"corpus.root is {corpus.root!r}", "a python corpus is stdlib or prefix")
    if corpus.kind == "packages" and not all(name.isidentifier() for name in corpus.packages):
        raise FieldError(
            f"corpus.root is {corpus.root!r}", "names to import, comma-separated without spaces: ray,numpy"
        )
