"""The endpoints that move predictions: submit (POST, PUT), cancel, retry.

Each handler is a Starlette endpoint: FastAPI's own layers would cost a third of a small request.
`gateway.rest.openapi` documents them.
"""

from starlette.requests import Request
from starlette.responses import Response

from blobs import Blobs
from contract.catalog import parse_reference
from contract.errors import InvalidInput
from contract.prediction import Priority, Ticket
from gateway.claims import Accepted, Claimed, Claims, Key, fingerprint_of
from gateway.follow import Follower, Seen
from gateway.rest.addresses import model_in_path
from gateway.rest.answers import Answers, asked_id, given_id, owner_of, visible
from gateway.rest.bodies import read_asked, read_nothing
from gateway.rest.headers import (
    parse_cancel_after_ms,
    parse_key,
    parse_priority,
    preferred_wait_s,
)
from gateway.retry import files_to_retry
from gateway.submit import Submitter, Terms
from gateway.withdraw import Withdrawer

Reference = tuple[str, int | None]  # a model's name, and the version if one was asked for


class Moves:
    """Accepts predictions and ends them."""

    def __init__(
        self,
        submitter: Submitter,
        claims: Claims,
        follower: Follower,
        withdrawer: Withdrawer,
        blobs: Blobs,
        answers: Answers,
    ) -> None:
        self._submitter = submitter
        self._claims = claims
        self._follower = follower
        self._withdrawer = withdrawer
        self._blobs = blobs
        self._answers = answers

    async def submit(self, request: Request) -> Response:
        """POST /v1/predictions."""
        key = _key(request)
        return await self._accept(request, await self._order(request, None, key))

    async def submit_to_model(self, request: Request) -> Response:
        """POST /v1/models/{owner}/{name}/predictions."""
        key = _key(request)
        named = model_in_path(request)
        self._submitter.resolve(*named)  # a wrong path is refused before its body is read
        return await self._accept(request, await self._order(request, named, key))

    async def put(self, request: Request) -> Response:
        """PUT /v1/predictions/{id}."""
        key = Key.of_id(given_id(request))
        if _key(request) is not None:
            raise InvalidInput(
                "the id in the path is the key already",
                field="header.idempotency-key",
                rule="named_once",
            )
        return await self._accept(request, await self._order(request, None, key))

    async def cancel(self, request: Request) -> Response:
        """POST /v1/predictions/{id}/cancel."""
        seen = visible(await self._follower.find(asked_id(request)), request)
        if seen.outcome is None:
            seen = Seen(seen.ticket, await self._withdrawer.cancel(seen.ticket))
        return self._answers.answer(seen, request, 200)

    async def retry(self, request: Request) -> Response:
        """POST /v1/predictions/{id}/retry."""
        return await self._accept(request, await self._repeated(request))

    async def _repeated(self, request: Request) -> Ticket | Claimed:
        """Read what is to be done again."""
        key, terms = _key(request), _terms(request)
        prediction_id = asked_id(request)
        await read_nothing(request)
        seen = visible(await self._follower.find(prediction_id), request)
        request.state.reserve_body(sum(file.size for file in seen.ticket.files.values()))
        files = await files_to_retry(seen, self._blobs)
        ticket = self._submitter.repeat(seen.ticket, files, terms)
        if key is None:
            return ticket
        return await self._claimed(ticket, ticket.version, key, body_bytes=0)

    async def _order(
        self, request: Request, named: Reference | None, key: Key | None
    ) -> Ticket | Claimed:
        """Read what is asked for."""
        terms = _terms(request)
        asked = await read_asked(request, names_model=named is None)
        name, number = named or parse_reference(asked.reference or "")
        model, version = self._submitter.resolve(name, number)
        ticket = await self._submitter.prepare(asked, model, version, terms)
        if key is None:
            return ticket
        return await self._claimed(ticket, number, key, body_bytes=asked.body_bytes)

    async def _claimed(
        self, ticket: Ticket, number: int | None, key: Key, *, body_bytes: int
    ) -> Claimed:
        fingerprint = await fingerprint_of(ticket, number, body_bytes=body_bytes)
        return await self._claims.claim(key, ticket, fingerprint)

    async def _accept(self, request: Request, order: Ticket | Claimed) -> Response:
        """Accept it, hold the answer if the caller prefers that, and give it.

        `order` has the contents of files in it, and nobody may hold it while a caller waits.
        """
        wait_s = preferred_wait_s(request.headers.get("prefer"))
        if not wait_s:
            accepted = await self._stored(order)
            request.state.release_body()
        else:
            prediction_id = order.ticket.id if isinstance(order, Claimed) else order.id
            with self._follower.waiting(prediction_id) as waiter:
                accepted = await self._stored(order)
                del order
                request.state.release_body()
                seen = await self._answers.held(accepted.seen, waiter, request, wait_s)
                accepted = Accepted(seen, accepted.is_replay)
        status = 202 if accepted.seen.outcome is None else 201
        return self._answers.answer(
            accepted.seen, request, status, wait_s, is_replay=accepted.is_replay
        )

    async def _stored(self, order: Ticket | Claimed) -> Accepted:
        if isinstance(order, Claimed):
            return await self._claims.accept(order)
        return Accepted(Seen(await self._submitter.accept(order)), is_replay=False)


def _key(request: Request) -> Key | None:
    text = parse_key(request.headers.getlist("idempotency-key"))
    return None if text is None else Key.of_owner(owner_of(request), text)


def _terms(request: Request) -> Terms:
    priority = request.headers.get("x-priority")
    after = request.headers.get("cancel-after")
    return Terms(
        owner_of(request),
        Priority.NORMAL
        if priority is None
        else parse_priority(priority, field="header.x-priority"),
        None if after is None else parse_cancel_after_ms(after, field="header.cancel-after"),
    )
