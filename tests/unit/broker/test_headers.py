"""Headers are read as nats-py reads them, in less time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from broker.internals import TidyClient

NAMES = st.text("ABCdef-", min_size=1)
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)


@given(st.dictionaries(NAMES, VALUES))
def test_what_servers_and_we_write_is_read_as_it_was_written(headers: dict[str, str]) -> None:
    raw = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode() + b"\r\n"
    assert TidyClient._parse_header_lines(raw) == headers
    assert Client._parse_header_lines(raw) == headers


@pytest.mark.parametrize(
    "raw", [b"Name:value\r\n\r\n", b"no header\r\n\r\n", b"Name: \xc3\xa9\r\n"]
)
def test_whatever_looks_different_is_left_to_nats_py(raw: bytes) -> None:
    assert TidyClient._parse_header_lines(raw) == Client._parse_header_lines(raw)
