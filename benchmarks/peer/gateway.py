"""The peer's REST API: POST an input, get an id, fetch the result.

POST /classify         a JPEG; answers {"id"}, or with ?wait=SECONDS as GET does
POST /noop             any text; the same
GET  /results/ID       {"id", "status", "output"}; ?wait=SECONDS
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import redis.asyncio
import uvicorn
from celery import Celery
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

KEY = "celery-task-meta-"  # of Celery, which also publishes each result under it

queue = Celery("peer", broker=os.environ["PEER_BROKER"])
queue.conf.update(task_serializer="pickle", accept_content=["pickle"])
results = redis.asyncio.Redis.from_url(os.environ["PEER_RESULTS"])
_waiting: dict[str, asyncio.Future[bytes]] = {}


@asynccontextmanager
async def listening(_: FastAPI) -> AsyncIterator[None]:
    heard = results.pubsub()
    await heard.psubscribe(f"{KEY}*")

    async def listen() -> None:
        async for message in heard.listen():
            if message["type"] == "pmessage":
                own = message["channel"].decode().removeprefix(KEY)
                if (waiter := _waiting.get(own)) is not None and not waiter.done():
                    waiter.set_result(message["data"])

    task = asyncio.create_task(listen())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


api = FastAPI(lifespan=listening)


@api.post("/{task}", status_code=202)
async def submit(task: str, request: Request, wait: float = 0.0) -> Response:
    own, body = str(uuid4()), await request.body()
    waiter = _waiter(own) if wait else None
    await run_in_threadpool(queue.send_task, task, args=(body,), task_id=own)
    if waiter is None:
        return _answer(202, {"id": own})
    return await _result(own, waiter, wait)


@api.get("/results/{own}")
async def result(own: str, wait: float = 0.0) -> Response:
    waiter = _waiter(own)  # before the look, or a result that comes in between is missed
    content = await results.get(f"{KEY}{own}")
    if content is not None and not waiter.done():
        waiter.set_result(content)
    return await _result(own, waiter, wait)


def _waiter(own: str) -> "asyncio.Future[bytes]":
    waiter = _waiting[own] = asyncio.get_running_loop().create_future()
    return waiter


async def _result(own: str, waiter: "asyncio.Future[bytes]", wait: float) -> Response:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait):
            await asyncio.wait([waiter])
    _waiting.pop(own, None)
    if not waiter.done():
        return _answer(200, {"id": own, "status": "waiting", "output": None})
    known = json.loads(waiter.result())
    done = "succeeded" if known["status"] == "SUCCESS" else "failed"
    return _answer(200, {"id": own, "status": done, "output": known["result"]})


def _answer(status: int, content: dict[str, Any]) -> Response:
    return Response(json.dumps(content), status, media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(
        api,
        host="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        log_level="warning",
        access_log=False,
    )
