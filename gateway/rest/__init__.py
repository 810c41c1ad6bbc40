"""The REST dialect, compatible with Replicate's API: reading requests, rendering answers.

Knows HTTP and JSON; what is decided it takes from `gateway.submit` and `gateway.follow`.
"""
