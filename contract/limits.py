"""Limits that are the same on every machine. What an operator may change is a setting instead."""

INLINE_BYTES_MAX = 1024 * 1024  # a larger file goes to the blobs first; its ticket carries the name
TICKET_BYTES_MAX = 2 * 1024 * 1024  # JetStream's max_msg_size; holds the files above and their JSON
NATS_PAYLOAD_BYTES_MAX = 8 * 1024 * 1024  # the server's max_payload; checked at start
FILES_MAX = 16  # files in one input
IMAGE_PIXELS_MAX = 40_000_000  # checked before decoding: 40 MP is 120 MB of RGB
IMAGE_SIDE_MAX = 65_535  # pixels; also what JPEG itself allows
OUTPUT_BYTES_MAX = 8 * 1024 * 1024  # JSON of one output; more is a failed prediction

assert INLINE_BYTES_MAX < TICKET_BYTES_MAX < NATS_PAYLOAD_BYTES_MAX
