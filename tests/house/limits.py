"""Every limit of the product: where it stands in the code, what it bounds, and what is beyond it.

The values are read from the code; tests/house/test_limits.py fails for a limit that is missing.
"""

from collections.abc import Iterator
from importlib import import_module

from pydantic_settings import BaseSettings

from dispatcher.settings import DispatcherSettings
from gateway.settings import GatewaySettings

Row = tuple[str, str, str]  # where, what it bounds, what happens beyond

SETTINGS: dict[str, type[BaseSettings]] = {
    "GATEWAY": GatewaySettings,
    "DISPATCHER": DispatcherSettings,
}

TABLE: dict[str, tuple[Row, ...]] = {
    "Requests": (
        ("GATEWAY.connections_max", "open connections", "503 and closed"),
        ("gateway.server.BACKLOG", "connections that wait to be taken", "the system refuses them"),
        ("gateway.server.HEAD_WAIT_S", "time for a request's headers", "408 and closed"),
        ("GATEWAY.header_bytes_max", "headers of a request", "431"),
        ("gateway.server.HEAD_BYTES_MAX", "headers that never end", "431 and closed"),
        ("GATEWAY.requests_max", "requests in progress", "429, Retry-After 1 s"),
        ("GATEWAY.waiters_max", "of these, callers held until an end", "429, Retry-After 1 s"),
        ("gateway.rest.headers.WAIT_S_MAX", "how long one is held", "answered as it stands"),
        ("GATEWAY.body_bytes_max", "body of a request", "413"),
        ("GATEWAY.bodies_bytes_max", "all bodies being read", "429, Retry-After 1 s"),
        ("GATEWAY.body_wait_s", "time for a body, and 1 s for each 32 KiB", "408 and closed"),
        ("gateway.server.LINGER_BYTES_MAX", "of a refused body still read", "closed"),
        ("gateway.server.LINGER_S", "time for that", "closed"),
        ("gateway.rest.headers.KEY_LENGTH_MAX", "characters of an Idempotency-Key", "422"),
        ("gateway.claims.ID_AGE_MS_MAX", "age of the id of a PUT", "422"),
        ("gateway.claims.ID_AHEAD_MS_MAX", "how far it may be ahead", "422"),
        ("gateway.claims.FINISHED_MS_MAX", "age at which a claim still gets its prediction", "410"),
        ("gateway.listing.PAGE_MAX", "rows of a page", "422"),
        ("gateway.listing.TRAIL_MAX", "pages that `previous` leads back", "none further"),
        ("gateway.listing.READS_MAX", "reads of the queue for a page", "a shorter page"),
        ("gateway.recent.PREDICTIONS_MAX", "predictions a gateway remembers", "read again"),
        ("gateway.recent.BYTES_MAX", "inputs and outputs of these", "read again"),
        ("gateway.recent.KEPT_S", "how long it remembers one", "read again"),
        ("GATEWAY.drain_s_max", "time to finish after SIGTERM", "cut off"),
    ),
    "Inputs": (
        ("gateway.rest.strict_json.DEPTH_MAX", "levels of JSON", "422"),
        ("gateway.rest.strict_json.VALUES_MAX", "values in JSON", "413"),
        ("gateway.rest.bodies.FORM_FIELDS_MAX", "texts in a form", "422"),
        ("gateway.rest.bodies.FORM_FIELD_BYTES_MAX", "one of them", "422"),
        ("contract.limits.FILES_MAX", "files in an input", "413; in a form 422"),
        ("contract.limits.INLINE_BYTES_MAX", "files inside a ticket", "kept as blobs instead"),
        ("contract.limits.TICKET_BYTES_MAX", "a ticket", "413"),
        ("contract.limits.IMAGE_PIXELS_MAX", "pixels of an image", "413, before it is decoded"),
        ("contract.limits.IMAGE_SIDE_MAX", "pixels of its longer side", "413"),
        ("tasks.scaling.COPIED_PIXELS_MAX", "pixels scaled the fast way", "Pillow's way"),
        ("tasks.image_files.READS_MAX", "parts of a file, and one for each 64 bytes", "413"),
        ("tasks.image_files.JPEG_SCANNED_PIXELS_MAX", "pixels times scans of a JPEG", "413"),
        ("tasks.image_files.JPEG_SEGMENTS_MAX", "segments of a JPEG", "413"),
        ("tasks.image_files.PNG_INFLATED_PARTS_MAX", "compressed texts of a PNG", "413"),
        ("tasks.image_files.TIFF_NUMBERS_MAX", "numbers in a table of a TIFF", "413"),
        ("tasks.image_files.AVIF_BOX_BYTES_MAX", "what is not picture in an AVIF", "413"),
        ("tasks.image_files.AVIF_BOXES_MAX", "boxes of an AVIF", "413"),
        ("tasks.image_classification.TOP_K_MAX", "classes asked for", "422"),
        ("GATEWAY.retention_days", "days an outcome is kept", "410"),
    ),
    "Queue": (
        ("GATEWAY.queue_tickets_max", "predictions not ended", "429, measured Retry-After"),
        ("GATEWAY.queue_bytes_max", "their bytes", "429, measured Retry-After"),
        ("GATEWAY.claims_max", "idempotency keys remembered", "429"),
        ("broker.declare.CLAIM_BYTES_MAX", "one of them", "a bug"),
        ("broker.publisher.INFLIGHT_MAX", "publishes under way", "429, Retry-After 1 s"),
        ("broker.publisher.INFLIGHT_BYTES_MAX", "their bytes", "429, Retry-After 1 s"),
        ("broker.publisher.HEADER_BYTES_MAX", "headers of a ticket, ours", "a bug"),
        ("broker.storing.STORE_S_MAX", "time for a publish, repeated", "503"),
        ("broker.claims.TRIES_MAX", "tries to read a claim that was taken", "503"),
        ("broker.drain_rate.RETRY_AFTER_S_MAX", "Retry-After of a full queue", "told so much"),
        ("contract.limits.NATS_PAYLOAD_BYTES_MAX", "a message of NATS", "refused at start"),
        ("contract.announcements.INLINE_OUTPUT_BYTES_MAX", "output in an announcement",
         "read from the ledger"),
        ("broker.connection.PINGS_OUTSTANDING_MAX", "pings of 5 s unanswered", "connected anew"),
        ("broker.watch.LOOKS_MAX", "looks at JetStream that fail in a row", "another server"),
        ("broker.requests.RECONNECT_S_MAX", "wait for another server, to ask again", "503"),
        ("broker.stream.FOLLOWER_SILENCE_S_MAX", "silence of followers", "another server"),
        ("broker.stream.BELIEVING_S_MAX", "doubt after a new leader", "its word alone counts"),
        ("broker.lookup.TICKETS_MAX", "tickets listed at once", "a bug"),
        ("broker.lookup.PAGE_BYTES_MAX", "their bytes", "a shorter page"),
    ),
    "Work": (
        ("broker.declare.ACK_PENDING_MAX", "tickets on loan, of a model and priority",
         "the others wait"),
        ("broker.delivery.LEASE_S", "a loan that nobody extends", "delivered again"),
        ("DISPATCHER.held_bytes_max", "tickets held by a dispatcher", "left in the queue"),
        ("broker.intake.MESSAGE_BYTES_MAX", "what a pull keeps for each", "left in the queue"),
        ("broker.intake.HELD_BYTES_MAX", "tickets held of one lane, by default",
         "left in the queue"),
        ("broker.intake.SILENCE_S_MAX", "silence of an open pull", "asked anew"),
        ("broker.leftovers.FOUND_MAX", "tickets found at once that were given up", "the next look"),
        ("DISPATCHER.batch_rows_max", "rows of a batch", "the next batch"),
        ("DISPATCHER.calls_in_flight", "requests of a model instance under way", "the others wait"),
        ("dispatcher.consume.RECORDINGS_MAX", "batches that are being recorded", "none is begun"),
        ("DISPATCHER.decode_threads", "inputs decoded at once", "the others wait"),
        ("DISPATCHER.attempts_max", "runs of a prediction", "failed, attempts_exhausted"),
        ("dispatcher.retries.RETRY_S_MAX", "wait before the next run", "not longer"),
        ("dispatcher.retries.WAITING_MAX", "rows that wait for it", "short waits"),
        ("dispatcher.infer.DOWNFALLS_MAX", "times a model goes down under rows", "failed"),
        ("DISPATCHER.infer_timeout_s", "time of a request to Triton", "failed, or tried again"),
        ("inference.triton.ANSWER_BYTES_MAX", "an answer of Triton", "smaller batches; failed"),
        ("contract.limits.OUTPUT_BYTES_MAX", "an output, as JSON", "failed, unusable_output"),
        ("inference.failures.MESSAGE_CHARACTERS_MAX", "an error's message", "cut"),
        ("dispatcher.encode.LIGHT_BYTES_MAX", "values encoded in the loop", "a thread"),
        ("dispatcher.execute.HELD_UP_S_MAX", "loop held by outputs", "the others' turn"),
        ("dispatcher.outages.RETRY_S_MAX", "pause while a part is away", "not longer"),
        ("dispatcher.health.CHECK_S_MAX", "pause while a model is away", "not longer"),
        ("DISPATCHER.drain_s_max", "time to finish after SIGTERM", "given back"),
    ),
    "Stores": (
        ("GATEWAY.ledger_connections_max", "connections to Postgres", "waited for"),
        ("ledger.connections.BORROW_S_MAX", "that wait", "503"),
        ("ledger.connections.CONNECT_S_MAX", "connecting", "503"),
        ("ledger.connections.STATEMENT_S_MAX", "a statement", "503"),
        ("ledger.connections.CLOSE_S_MAX", "closing", "cut off"),
        ("ledger.ledger.STATEMENT_ROWS_MAX", "rows inserted at once", "the next statement"),
        ("ledger.ledger.STATEMENT_CHARACTERS_MAX", "their characters", "the next statement"),
        ("ledger.ledger.PAGE_ROWS_MAX", "rows of a page read", "a bug"),
        ("ledger.schema.MIGRATION_S_MAX", "a migration", "tried again"),
        ("ledger.retention.STEP_S_MAX", "a step of the retention", "the next round"),
        ("ledger.retention.CHUNK_ROWS_MAX", "rows removed at once", "the next statement"),
        ("gateway.follow.IDS_PER_QUESTION_MAX", "waiters looked up at once", "the next question"),
        ("blobs.blobs.BLOB_BYTES_MAX", "a blob", "an error"),
        ("blobs.blobs.CALL_S_MAX", "a put or get", "503"),
        (
            "blobs.disk.UNWRITTEN_BYTES_MAX",
            "files unwritten by anybody when a batch of blobs is synced as one",
            "each blob by itself",
        ),
        ("blobs.location.CONNECT_S_MAX", "connecting to a bucket", "tried again"),
        ("blobs.location.REQUEST_S_MAX", "a request to it", "tried again"),
        ("blobs.location.RETRIES_MAX", "those tries", "503"),
    ),
    "Health and logs": (
        ("gateway.health.PING_S_MAX", "a look at a part", "not ready"),
        ("gateway.health.HEARD_S_MAX", "silence of a dispatcher", "counts as away"),
        ("gateway.health.DISPATCHERS_MAX", "dispatchers remembered", "the oldest forgotten"),
        ("telemetry.exposition.CONNECTIONS_MAX", "scrapers of a dispatcher", "closed"),
        ("telemetry.logs.LINES_PER_S_MAX", "lines a second of one place", "counted on the next"),
        ("telemetry.logs.FIELD_CHARACTERS_MAX", "a field of a line", "cut in the middle"),
        ("telemetry.logs.TRACE_CHARACTERS_MAX", "a trace", "cut in the middle"),
        ("gateway.problems.CAUSES_MAX", "causes named", "left out"),
        ("standalone.server.LOG_BYTES_MAX", "a server's log file", "set aside at its next start"),
    ),
    "Clients": (
        ("tritonq.inputs.FILE_BYTES_MAX", "a file to send", "InvalidInput"),
        ("tritonq.carry.BODY_BYTES_MAX", "an answer", "an error"),
        ("tritonq.carry.BODY_S_MAX", "time for all of it", "an error"),
        ("tritonq.carry.CONNECTIONS_MAX", "connections", "waited for"),
        ("tritonq.carry.CONNECT_S_MAX", "connecting", "tried again"),
        ("tritonq.carry.ANSWER_S_MAX", "silence after a request", "tried again"),
        ("tritonq.carry.HELD_S_MAX", "the same, beyond the wait asked for", "tried again"),
        ("tritonq.client.CONCURRENCY_MAX", "predictions under way", "ValueError"),
        ("tritonq.retry.BACKOFF_S_MAX", "pause between tries", "not longer"),
        ("tritonq.retry.RETRY_AFTER_S_MAX", "Retry-After that is followed", "told to the caller"),
        ("tritonq.retry.FAULTS_MAX", "tries after 500", "told to the caller"),
        ("tritonq.calls.MODEL_PAGES_MAX", "pages of models", "an error"),
        ("tritonq.terms.KEY_CHARACTERS_MAX", "characters of a key", "ValueError"),
        ("tritonq.terms.DURATION_CHARACTERS_MAX", "of a duration", "ValueError"),
        ("tritonq.wire.SHOWN_CHARACTERS_MAX", "of an answer, in a message", "cut"),
    ),
}  # fmt: skip

# Limits of what one person starts and watches, or of nobody's but the maker's.
EXCEPTED = {
    "standalone": "how long one machine's servers may take to start, stop and heal",
    "tritonq.command": "what a person in a terminal sees and waits for",
    "archive": "pieces of a backup, which an operator makes",
    "ledger.copying": "the same",
    "broker.transfer": "the same",
    "weights": "building models, which an operator does",
    "inference.triton.READY_S_MAX": "a check's own time, below the pause until the next",
    "inference.triton.LOAD_S_MAX": "loading a model, which standalone asks for",
    "inference.known_answer.ANSWER_S_MAX": "a check's own time",
    "broker.intake.CLOSE_S_MAX": "a round trip at the end of a subscription",
    "broker.declare.DELIVERIES_MAX": "deliberately none: nothing accepted is ever parked",
    "configuration.process.END_S_MAX": "ending after a bug",
    "tritonq.retry.DOUBLINGS_MAX": "keeps a power from overflowing",
}


def table() -> str:
    lines = ["| what | limit | where | beyond |", "| --- | --- | --- | --- |"]
    for group, rows in TABLE.items():
        lines.append(f"| **{group}** | | | |")
        for where, what, beyond in rows:
            lines.append(f"| {what} | {value_text(where)} | `{shown(where)}` | {beyond} |")
    lines.append("| **Webhooks** | not offered | | 422, `not_offered` |")
    return "\n".join(lines) + "\n"


def places() -> Iterator[str]:
    for rows in TABLE.values():
        for where, _, _ in rows:
            yield where


def shown(where: str) -> str:
    """A setting as it is set; a constant as it is found."""
    owner, _, name = where.rpartition(".")
    return f"{owner}_{name.upper()}" if owner in SETTINGS else where


def value_text(where: str) -> str:
    owner, _, name = where.rpartition(".")
    if owner in SETTINGS:
        field = SETTINGS[owner].model_fields[name]
        if field.default_factory is not None:
            return "of the machine"
        value = field.default
    else:
        value = getattr(import_module(owner), name)
    return _with_unit(name.upper(), value)


def _with_unit(name: str, value: float) -> str:
    parts = name.split("_")
    if "BYTES" in parts:
        for unit, size in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
            if value >= size:
                return f"{value / size:g} {unit}"
        return f"{value:g} bytes"
    if "MS" in parts:
        return _seconds(value / 1000)
    if "S" in parts and "PER" not in parts:
        return _seconds(value)
    return f"{value:,}"


def _seconds(value: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if value >= size and value % size == 0 and value > size:
            return f"{value / size:g} {unit}"
    return f"{value * 1000:g} ms" if value < 1 else f"{value:g} s"
