"""Reads JSON from strangers. Pure.

Stricter than `json.loads`, since what is accepted here is stored, in MessagePack and in Postgres,
and answered back: nothing may pass that one of these refuses later. Errors name the field.
"""

import json
import math
from typing import Any, NoReturn

import numpy as np

from contract.errors import InvalidInput, TooLarge
from contract.prediction import JSON

DEPTH_MAX = 64
VALUES_MAX = 1_000_000  # what a ticket can hold at most; each costs up to 100 bytes of memory
VALUE_BYTES = 64  # most of them: an empty list and its place in another
INTEGER_MIN, INTEGER_MAX = -(2**63), 2**64 - 1  # what MessagePack can carry
_SMALL_BYTES = 64 * 1024  # cannot hold more values than is fine anyway


def read_object(body: bytes) -> dict[str, JSON]:
    """Read a JSON object.

    Raises:
        InvalidInput: not JSON, not an object, or with a value that cannot be kept.
        TooLarge: more values than a ticket can hold.
    """
    value = _parse(body)
    if not isinstance(value, dict):
        raise InvalidInput(
            f"the body is a JSON {_kind(value)}; send an object", field="body", rule="object"
        )
    check(value, "", DEPTH_MAX)
    return value


def memory_bytes(body: bytes) -> int:
    """What `read_object` makes of `body` will take, about, and `body` itself."""
    return len(body) + VALUE_BYTES * min(_values_in(body), VALUES_MAX)


def check(value: JSON, path: str, depth_left: int) -> None:
    """Refuse text and numbers that JSON can write and others cannot keep.

    Raises:
        InvalidInput: naming the path of the value.
    """
    if isinstance(value, str):
        check_text(value, path)
    elif isinstance(value, dict | list):
        _check_members(value, path, depth_left)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _refusal("this number is too large for a 64-bit float", path, "number_range")
    elif isinstance(value, int) and not INTEGER_MIN <= value <= INTEGER_MAX:
        raise _refusal("this integer does not fit into 64 bits", path, "number_range")


def _check_members(value: dict[str, JSON] | list[JSON], path: str, depth_left: int) -> None:
    if depth_left == 0:
        raise _refusal(f"nested deeper than {DEPTH_MAX} levels", path, "depth")
    if isinstance(value, dict):
        for name, member in value.items():
            check_text(name, path or "body")
            check(member, f"{path}.{name}" if path else name, depth_left - 1)
        return
    for index, member in enumerate(value):
        # A long list of plain numbers is what most lists are: no call for each of them.
        if type(member) is not float or not math.isfinite(member):
            check(member, f"{path}[{index}]", depth_left - 1)


def check_text(text: str, path: str) -> None:
    """Raises InvalidInput for NUL characters and lone surrogates: Postgres keeps neither."""
    if "\x00" in text:
        raise _refusal("text must not contain NUL (U+0000)", path, "no_nul")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _refusal("text must not contain lone surrogates", path, "unicode") from None


def _values_in(body: bytes) -> int:
    """How many there are at most; 0 where so few fit that it does not matter."""
    if len(body) <= _SMALL_BYTES:
        return 0
    # `bytes.count` takes 140 us for these three in 100 KB, a third of their whole submit; numpy 32.
    read = np.frombuffer(body, np.uint8)
    return sum(int(np.count_nonzero(read == sign)) for sign in b",[{")


def _parse(body: bytes) -> JSON:
    # Fewer bytes are fewer values.
    if len(body) > VALUES_MAX and (values := _values_in(body)) > VALUES_MAX:
        raise TooLarge(
            f"the JSON has about {values} values; {VALUES_MAX} is the limit",
            field="body",
            rule="values_max",
        )
    try:
        return _DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _refusal(f"byte {error.start} is not UTF-8", "body", "utf8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        what = error.msg.removesuffix(" at")  # as one of its messages ends
        raise _refusal(f"not JSON: {what} at {where}", "body", "json") from None
    except RecursionError:
        raise _refusal(f"nested deeper than {DEPTH_MAX} levels", "body", "depth") from None
    except ValueError:  # what int() says to thousands of digits
        raise _refusal("a number has too many digits", "body", "number_range") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _refusal(f"the name {name[:80]!a} occurs twice", "body", "unique_names")
            seen.add(name)
    return members


def _no_constant(text: str) -> NoReturn:
    raise _refusal(f"{text} is not JSON", "body", "json")


def _refusal(message: str, path: str, rule: str) -> InvalidInput:
    # The path is made of the caller's own names: shown as they are, but never longer than a line
    # and never with characters that cannot be sent.
    shown = path if path.isprintable() else ascii(path)
    return InvalidInput(message, field=shown[:200], rule=rule)


def _kind(value: JSON) -> str:
    kinds: dict[type, str] = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
