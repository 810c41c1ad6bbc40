"""The peer's Celery worker: decodes a photograph and infers, in one of two processes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from celery import Celery
from celery.signals import worker_process_init, worker_ready

from benchmarks.raw import SIDE, labels_of, open_session
from tasks.images import square_image

MODEL = "efficientnet_lite0"
TOP_K = 5

app = Celery("peer", broker=os.environ["PEER_BROKER"], backend=os.environ["PEER_RESULTS"])
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_serializer="pickle",  # an image as it is; JSON would make base64 of it
    accept_content=["pickle"],
    result_serializer="json",
)
# One for each process of the pool, made after the fork: onnxruntime's threads survive none.
_sessions: dict[str, ort.InferenceSession] = {}
_labels = labels_of(MODEL)


def load(**_: Any) -> None:
    _sessions[MODEL] = open_session(MODEL)


def classify(content: bytes) -> list[dict[str, Any]]:
    image = square_image(content, SIDE, "image")
    (scores,) = _sessions[MODEL].run(None, {"image": image[np.newaxis]})
    best = np.argsort(-scores[0], kind="stable")[:TOP_K]
    return [
        {"label": _labels[index], "index": int(index), "score": float(scores[0][index])}
        for index in best
    ]


def noop(content: bytes) -> str:
    return content.decode()


def say_so(**_: Any) -> None:
    Path(os.environ["PEER_AT_WORK"]).touch()


worker_process_init.connect(load)
worker_ready.connect(say_so)
app.task(name="classify")(classify)
app.task(name="noop")(noop)
