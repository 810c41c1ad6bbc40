"""What gateway and dispatcher are told from outside, in the same words, and how that can be wrong.

Each process adds what it alone needs in its own `settings.py`.
"""
