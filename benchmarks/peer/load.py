"""How the peer is loaded: as the product is, over the same connections."""

from benchmarks.load import Connection, Work, get, post, read_answer
from benchmarks.photographs import photographs
from benchmarks.product import IMAGES, SMALL

WAIT = "wait=55"


def submit_and_fetch() -> Work:
    """POST a photograph, then GET its outcome."""
    posts = [post("/classify", each, "image/jpeg") for each in photographs(IMAGES)]

    async def work(link: Connection, number: int) -> None:
        status, body = await link.ask(posts[number % IMAGES])
        assert status == 202, body
        own = body.split(b'"')[3].decode()
        _succeeded(await link.ask(get(f"/results/{own}?{WAIT}")))

    return work


def submit_and_wait_image() -> Work:
    posts = [post(f"/classify?{WAIT}", each, "image/jpeg") for each in photographs(IMAGES)]

    async def work(link: Connection, number: int) -> None:
        _succeeded(await link.ask(posts[number % IMAGES]))

    return work


def submit_and_wait_noop() -> Work:
    text = b"x" * SMALL
    request = post(f"/noop?{WAIT}", text, "text/plain")

    async def work(link: Connection, _: int) -> None:
        assert text in _succeeded(await link.ask(request))

    return work


def _succeeded(answer: tuple[int, bytes]) -> bytes:
    status, body = answer
    known = read_answer(body)
    assert (status, known.status) == (200, "succeeded"), body
    return bytes(known.output)
