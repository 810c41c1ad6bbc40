"""`python -m gateway`: reads the settings, serves until SIGTERM or SIGINT, finishes, exits 0."""

import asyncio
import gc
import logging
import signal
import sys

import uvloop
from pydantic import ValidationError

from gateway.app import open_gateway
from gateway.server import GatewayServer, make_server
from gateway.settings import GatewaySettings
from telemetry.logs import configure_logs

log = logging.getLogger("gateway")

EXIT_USAGE = 2


def main() -> int:
    try:
        settings = GatewaySettings()
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(str(part) for part in problem["loc"]).upper()
            sys.stderr.write(f"gateway: {'GATEWAY_' + name if name else ''}: {problem['msg']}\n")
        return EXIT_USAGE
    configure_logs("gateway", settings.log_level)
    try:
        uvloop.run(serve(settings))
    except (ValueError, OSError) as error:
        log.critical("gateway.cannot_start", extra={"reason": str(error)})
        return EXIT_USAGE
    return 0


async def serve(settings: GatewaySettings) -> None:
    """Serve until told to stop.

    Raises:
        ValueError: the settings or the model repository make no sense.
    """
    async with open_gateway(settings) as gateway:
        server = make_server(
            gateway.asgi,
            host=settings.host,
            port=settings.port,
            connections_max=settings.connections_max,
            drain_s_max=settings.drain_s_max,
            when_stopping=gateway.stop_waiting,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _stop, server)
        # What is alive now stays alive: the collector need never look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)
        serving = asyncio.create_task(server.serve(), name="gateway.serve")
        await asyncio.wait({serving, *gateway.background}, return_when=asyncio.FIRST_COMPLETED)
        _stop(server)
        await serving
        for task in gateway.background:
            if task.done():
                task.result()  # a bug: it ends the process, whoever watches starts another


def _stop(server: GatewayServer) -> None:
    server.should_exit = True


if __name__ == "__main__":
    sys.exit(main())
