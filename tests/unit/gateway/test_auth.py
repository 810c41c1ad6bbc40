import pytest

from contract.errors import Unauthorized
from gateway.auth import LoopbackAuth, TokenAuth, parse_tokens

AUTH = TokenAuth({"alice-token-1": "alice", "bob-token-22": "bob"})


def test_a_token_stands_for_its_owner_in_both_schemes() -> None:
    assert AUTH.owner({b"authorization": b"Bearer alice-token-1"}) == "alice"
    assert AUTH.owner({b"authorization": b"token bob-token-22"}) == "bob"


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer wrong-token",
        b"Bearer alice-token-1x",
        b"Basic alice-token-1",
        b"alice-token-1",
        b"Bearer \xff\xfe",
    ],
)
def test_anything_but_a_known_token_is_refused_and_never_repeated(header: bytes | None) -> None:
    headers = {} if header is None else {b"authorization": header}
    with pytest.raises(Unauthorized) as refused:
        AUTH.owner(headers)
    assert "wrong-token" not in str(refused.value)


def test_tokens_are_read_by_name() -> None:
    assert parse_tokens(" a:token-one , b:token:two ") == {"token-one": "a", "token:two": "b"}


@pytest.mark.parametrize(
    "text", ["", ",", "no-colon-here", ":token-one", "a:short", "a b:token-one", "a:tökentöken",
             "a:same-token,b:same-token"],
)  # fmt: skip
def test_tokens_that_could_let_somebody_in_by_mistake_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"token") as refused:
        parse_tokens(text)
    assert "same-token" not in str(refused.value)


@pytest.mark.parametrize("host", [b"127.0.0.1:8080", b"localhost:1", b"[::1]:8080", b"127.1.2.3"])
def test_without_tokens_this_machine_is_let_in(host: bytes) -> None:
    assert LoopbackAuth().owner({b"host": host}) == ""
    assert LoopbackAuth().owner({b"host": host, b"origin": b"http://" + host}) == ""


@pytest.mark.parametrize(
    "headers",
    [
        {b"host": b"127.0.0.1:8080", b"origin": b"https://elsewhere.example"},
        {b"host": b"127.0.0.1:8080", b"origin": b"null"},
        {b"host": b"127.0.0.1:8080", b"origin": b"http://127.0.0.1:9999"},
        {b"host": b"rebound.example:8080"},
        {b"host": b"[::1"},
    ],
)
def test_without_tokens_web_pages_of_strangers_are_kept_out(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(Unauthorized):
        LoopbackAuth().owner(headers)
