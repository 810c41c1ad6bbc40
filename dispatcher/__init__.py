"""Takes tickets from the queue, runs them through Triton in batches, records their outcomes.

The order of effects is in `execute.py`, what runs together is decided in `batching.py`, how much is
held is bounded in `consume.py`; `serve.py` wires the parts.
"""
