"""Everything on one machine, without Docker: starts, watches, heals and stops the real servers.

`standalone.up` is the whole of it; `standalone.server` is how any one server is run. Nothing else
of the product imports this package but the command line: gateway and dispatcher are started as
processes and know nothing of it.
"""
