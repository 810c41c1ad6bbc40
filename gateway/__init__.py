"""The HTTP side: accepts predictions into the queue, and answers what became of them.

`edge` guards every request, `rest/` speaks the Replicate-compatible dialect, `submit` accepts,
`follow` and `listing` read, `app` wires them and `server` runs them. It writes nothing but the
queue (and, before it, large files to the blobs), and never talks to Triton.
"""
