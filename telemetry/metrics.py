"""Every metric of the product: its name, unit and labels, declared once.

Labels take few values, known in advance: a model or route on offer, a status, a priority, never an
id or a path a caller typed. Where a metric is touched once per prediction, keep the child
(`ENDED.labels(...)`) instead of looking it up every time.
"""

from prometheus_client import Counter, Gauge, Histogram

_WAIT_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    300,
    1800,
)
_CALL_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

# gateway

HTTP_REQUESTS = Counter(
    "tritonq_http_requests_total",
    "HTTP requests answered, by route template.",
    ["route", "method", "status"],
)
HTTP_SECONDS = Histogram(
    "tritonq_http_request_seconds",
    "Time from the first byte of a request to its answer; a held wait included.",
    ["route", "method"],
    buckets=_WAIT_S,
)
ACCEPTED = Counter(
    "tritonq_predictions_accepted_total",
    "Predictions whose ticket is stored in the queue.",
    ["model", "priority"],
)
WITHDRAWN = Counter(
    "tritonq_predictions_withdrawn_total",
    "Predictions this gateway ended: canceled, or found past their deadline.",
    ["model", "status"],
)
WAITERS = Gauge("tritonq_waiters", "Callers being held until their prediction ends.")
QUEUE_TICKETS = Gauge("tritonq_queue_tickets", "Tickets in the queue, waiting and running.")
QUEUE_BYTES = Gauge("tritonq_queue_bytes", "Bytes the queue's stream occupies.")

# dispatcher

ENDED = Counter(
    "tritonq_predictions_ended_total",
    "Predictions whose outcome this dispatcher recorded.",
    ["model", "status"],
)
QUEUE_SECONDS = Histogram(
    "tritonq_prediction_queue_seconds",
    "Time from acceptance to the beginning of the attempt that ended it.",
    ["model", "priority"],
    buckets=_WAIT_S,
)
COMPUTE_SECONDS = Histogram(
    "tritonq_compute_seconds",
    "Time of one Triton request that succeeded.",
    ["model"],
    buckets=_CALL_S,
)
BATCH_ROWS = Histogram(
    "tritonq_batch_rows",
    "Rows in one Triton request that succeeded.",
    ["model"],
    buckets=_ROWS,
)
RECORD_SECONDS = Histogram(
    "tritonq_record_seconds",
    "Time to record the outcomes of one batch in the ledger; an outage included.",
    buckets=_WAIT_S,
)
REDELIVERED = Counter(
    "tritonq_tickets_redelivered_total",
    "Tickets that came on their second or a later delivery.",
    ["model"],
)
RETRIES = Counter(
    "tritonq_retries_total",
    "Runs that failed and will be repeated, by the code of their error.",
    ["model", "code"],
)
OVERDUE = Counter(
    "tritonq_predictions_overdue_total",
    "Predictions whose deadline had passed when this dispatcher was about to run them.",
    ["model"],
)
DROPPED = Counter(
    "tritonq_tickets_dropped_total",
    "Tickets this dispatcher held and did not run, because they had been ended elsewhere.",
    ["model"],
)
FOREIGN = Gauge(
    "tritonq_messages_foreign",
    "Messages this dispatcher removed from the queue since it started: nobody's predictions.",
    ["model"],
)
HELD = Gauge("tritonq_tickets_held", "Tickets on loan to this dispatcher.", ["model"])
MODEL_AVAILABLE = Gauge(
    "tritonq_model_available", "1 while the model's last check or inference succeeded.", ["model"]
)
OUTAGES = Counter(
    "tritonq_outages_total", "Times a part was found to be away.", ["part"]
)  # part: ledger, blobs, or model:<name>
