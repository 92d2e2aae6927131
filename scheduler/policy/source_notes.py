"""What a reader of a train.py should look at: opaque literals, unusual imports and calls, paths. Never a verdict.

Read from the syntax tree, in which identifiers are normalised as Python does it, so letters that only look alike are
seen through. Does not follow values: what a program builds at run time is the judge's and the sandbox's business.
"""

from __future__ import annotations

import ast
import math
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator

from scheduler.domain.errors import CandidateRejected
from scheduler.domain.text import one_line, shorten
from scheduler.policy.source import parse_source

MOST_NOTES = 20
LONG_LITERAL, LONG_LIST, OPAQUE_BITS = 200, 64, 4.8  # characters, numbers, bits per character: prose has 4.2
_SHOWN_CHARACTERS = 60
_MODULES = frozenset({
    "ctypes", "cffi", "mmap", "socket", "marshal", "pickle", "zlib", "bz2", "lzma", "gzip", "base64", "binascii",
    "codecs", "subprocess", "multiprocessing", "signal", "resource", "fcntl", "importlib", "inspect", "pty", "http",
    "urllib", "requests", "builtins", "faulthandler", "_posixsubprocess", "_ctypes",
})  # fmt: skip
_BUILTINS = frozenset({"exec", "eval", "compile", "__import__", "globals", "vars", "breakpoint"})
_CALLS = frozenset({
    "fork", "forkpty", "setsid", "execv", "execve", "execvp", "posix_spawn", "system", "popen", "kill", "ptrace",
    "get_objects", "get_referrers", "settrace", "setprofile", "_getframe", "_current_frames", "addaudithook",
    "memfd_create", "prctl", "unshare", "setns", "mount", "CDLL", "sendmsg", "recvmsg", "import_module",
})  # fmt: skip
_ATTRIBUTES = frozenset(
    {"__globals__", "__code__", "__closure__", "__subclasses__", "__builtins__", "f_back", "f_locals"}
)
_PATHS = ("/proc", "/dev/shm", "/dev/mem", "/sys/", "__pycache__", "result.json", ".arsched", "site-packages", ".git/")


def compressed_bytes(data: bytes) -> int:
    """Size of a source as zlib's best: what it can hold, whatever it is written as."""
    return len(zlib.compress(data, 9))


def read_notes(data: bytes) -> tuple[str, ...]:
    """At most MOST_NOTES lines, by line number, the last of which counts what is left out."""
    try:
        tree = parse_source(data.decode("utf-8-sig", "replace"))
    except CandidateRejected:
        return ("it does not parse",)
    found = sorted({(line, text) for node in _walk(tree) for line, text in _look(node)})
    notes = [f"line {line}: {text}" for line, text in found]
    if len(notes) > MOST_NOTES:
        notes = [*notes[: MOST_NOTES - 1], f"and {len(notes) - MOST_NOTES + 1} more"]
    return tuple(notes)


def _walk(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node but the docstrings: explaining is not suspicious."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = list(ast.walk(tree))
    first = [node.body[0] for node in nodes if isinstance(node, documented) and node.body]
    docstrings = {id(one.value) for one in first if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)}
    return (node for node in nodes if id(node) not in docstrings)


def _look(node: ast.AST) -> Iterator[tuple[int, str]]:
    line = getattr(node, "lineno", 0)
    match node:
        case ast.Import(names=names):
            yield from ((line, f"imports {_shown(one.name)}") for one in names if _is_unusual(one.name))
        case ast.ImportFrom(module=module, names=names):
            every = [f"{module or ''}.{one.name}" for one in names]
            yield from ((line, f"imports {_shown(name)}") for name in every if _is_unusual(name))
        case ast.Call(func=function):
            yield from ((line, text) for text in _look_at_call(node, function))
        case ast.Attribute(attr=name) if _plain(name) in _ATTRIBUTES:
            yield line, f"reads {_shown(name)}"
        case ast.Constant(value=str() | bytes() as value):
            yield from ((line, text) for text in _look_at_literal(value))
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items) if len(items) >= LONG_LIST:
            if all(isinstance(item, ast.Constant | ast.UnaryOp) for item in items):
                yield line, f"a list of {len(items):,} constants"
        case ast.Constant(value=int() as value) if value.bit_length() > 8 * LONG_LITERAL:
            yield line, f"a number of {value.bit_length():,} bits"


def _look_at_call(call: ast.Call, function: ast.expr) -> Iterator[str]:
    match function:
        case ast.Name(id=name) if _plain(name) in _BUILTINS | _CALLS:
            yield f"calls {_shown(name)}"
        case ast.Attribute(attr=name) if _plain(name) in _CALLS:  # model.eval and torch.compile are something else
            yield f"calls {_shown(name)}"
        case ast.Name(id="getattr" | "setattr" | "delattr" as name) if len(call.args) > 1:
            given = call.args[1]
            if not isinstance(given, ast.Constant):
                yield f"calls {name} with a computed name"
            elif _plain(str(given.value)) in _BUILTINS | _CALLS | _ATTRIBUTES:
                yield f"calls {name} with {_shown(str(given.value))}"


def _look_at_literal(value: str | bytes) -> Iterator[str]:
    text = value if isinstance(value, str) else value.decode("latin-1")
    if any(path in _plain(text) for path in _PATHS):
        yield f"names {_shown(text)}"
    bits = _entropy(text)
    if len(text) >= LONG_LITERAL and bits >= OPAQUE_BITS:
        yield f"an opaque literal of {len(text):,} characters, {bits:.1f} bits each"


def _is_unusual(module: str) -> bool:
    """`from harness import name` is how a train.py asks for what it is meant to have; a module of its is not."""
    parts = _plain(module).split(".")
    inside = parts[0] == "harness" and (len(parts) > 2 or parts[-1] in _HARNESS_MODULES)
    return inside or parts[0] in _MODULES


_HARNESS_MODULES = frozenset({
    "attention", "cache", "capabilities", "containment", "contract", "judge", "loader", "logits_server", "prepare",
    "processes", "protocol", "rows", "scoring", "session", "shim", "tokenizer",
})  # fmt: skip


def _entropy(text: str) -> float:
    """Bits per character, of its own distribution of characters."""
    counts, n = Counter(text), len(text)
    return -sum(count / n * math.log2(count / n) for count in counts.values()) if n else 0.0


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _shown(text: str) -> str:
    return shorten(one_line(_plain(text)), _SHOWN_CHARACTERS)
