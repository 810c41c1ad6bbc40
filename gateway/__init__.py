"""The HTTP side: accepts predictions into the queue, and answers what became of them.

`edge` guards every request, `rest/` speaks the Replicate-compatible dialect, `submit` accepts
(with a key: `claims`; once more: `retry`), `withdraw` ends what need not run, `follow` and
`listing` read, `app` wires them and `server` runs them. It writes tickets and claims to the queue,
large files to the blobs and the outcomes of what it withdraws to the ledger; it never talks to
Triton.
"""
