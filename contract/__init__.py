"""What the processes agree on: predictions, tickets, subjects, the catalog, errors.

Pure: no I/O, no clock, no randomness of its own. Every other package may import this one; it
imports none of them.
"""
