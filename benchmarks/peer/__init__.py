"""The peer: what a competent team builds without us, on the same machine for the same load.

FastAPI in front, Celery on RabbitMQ behind it, two prefork workers with onnxruntime at one thread
each, results in Redis. Persistent messages, acks late, prefetch of one. Where there was a choice it
was made in the peer's favour: bytes travel pickled and not as base64, the gateway hears of results
by one subscription instead of polling, publishes are not confirmed, and Redis writes nothing to
disk. So it promises less than the product does: an acceptance may be lost with RabbitMQ's buffers,
a result with Redis.

    python -m benchmarks.peer FOLDER

runs it until SIGTERM and prints a line of JSON, with its port, when it answers.
"""
