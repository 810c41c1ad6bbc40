"""Pre- and post-processing by task, named by the field's standard names. One file a task.

Pure numpy and Pillow: no I/O, no clock. `registry.task(name)` finds a task.
"""
