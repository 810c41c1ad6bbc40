"""The bound: onnxruntime in one process, without any service. Decode and infer, nothing else.

Two threads, each of which decodes a small batch of photographs and infers it with one thread of
onnxruntime's own, as the CPU configuration of the product does it.

    python -m benchmarks.raw MODEL

prints a line when it is ready, then for each line with a number classifies so many photographs
and prints how long that took, in seconds.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort

from benchmarks.photographs import photographs
from benchmarks.results import ROOT
from tasks.images import square_image

IMAGES = 64
SIDE = 224
THREADS = 2
# How many photographs are inferred together: what was the cheapest of 1, 2, 4, 8 and 16 here (fp32
# 9.4 CPU-ms each at 2 and 10.1 at 8, int8 4.1 at 4), and what the product's CPU configuration has.
BATCHES = {"efficientnet_lite0": 2, "efficientnet_lite0_int8": 4}
REPOSITORY = ROOT / "model_repository"


def open_session(model: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = REPOSITORY / model / "1" / "model.onnx"
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def labels_of(model: str) -> list[str]:
    return (REPOSITORY / model / "labels.txt").read_text().splitlines()


def main(model: str) -> None:
    sources, batch = photographs(IMAGES), BATCHES[model]
    sessions = [open_session(model) for _ in range(THREADS)]

    def classify(session: ort.InferenceSession, numbers: range) -> None:
        for start in range(numbers.start, numbers.stop, batch):
            chosen = [sources[it % IMAGES] for it in range(start, min(start + batch, numbers.stop))]
            images = np.stack([square_image(each, SIDE, "image") for each in chosen])
            (scores,) = session.run(None, {"image": images})
            assert scores.argmax(axis=1).shape == (len(chosen),)

    with ThreadPoolExecutor(THREADS) as pool:
        sys.stdout.write("{}\n")
        sys.stdout.flush()
        for line in sys.stdin:
            share = int(line) // THREADS
            shares = [range(number * share, (number + 1) * share) for number in range(THREADS)]
            began_s = time.perf_counter()
            list(pool.map(classify, sessions, shares))
            sys.stdout.write(f"{time.perf_counter() - began_s}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
