"""What stands behind the `tritonq` command: a batch that can be resumed, and how it is shown."""
