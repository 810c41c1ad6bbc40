"""Logs and metrics: declared once, the same in every process.

Knows no other package. Nothing here may fail the work it watches.
"""
