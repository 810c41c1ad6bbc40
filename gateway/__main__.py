"""`python -m gateway`: reads the settings, serves until SIGTERM or SIGINT, finishes.

Exit status: 0 after a stop that was asked for, 2 where the configuration is wrong, 1 after a bug.
"""

import asyncio
import gc
import logging
import signal
import sys

import uvloop
from pydantic import ValidationError

from configuration.process import (
    EXIT_BUG,
    EXIT_WRONG_CONFIGURATION,
    WrongConfiguration,
    ended_by_bugs,
    log_problems,
)
from gateway.app import open_gateway
from gateway.server import listen, make_server
from gateway.settings import GatewaySettings
from ledger import UnfitLedger
from telemetry.logs import configure_logs

log = logging.getLogger("gateway")


def main() -> int:
    try:
        settings = GatewaySettings()
    except ValidationError as error:
        configure_logs("gateway")
        log_problems(GatewaySettings, error)
        return EXIT_WRONG_CONFIGURATION
    configure_logs("gateway", settings.log_level)
    try:
        uvloop.run(serve(settings))
    except (WrongConfiguration, UnfitLedger) as error:
        log.critical("configuration.wrong", extra={"reason": str(error)})
        return EXIT_WRONG_CONFIGURATION
    except Exception:
        log.critical("gateway.bug", exc_info=True)
        return EXIT_BUG
    return 0


async def serve(settings: GatewaySettings) -> None:
    """Serve until told to stop.

    Raises:
        WrongConfiguration, UnfitLedger: somebody has to change something.
    """
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise WrongConfiguration(f"cannot listen on {where}: {error.strerror}") from error
    async with open_gateway(settings) as gateway:
        server = make_server(
            gateway.asgi,
            listener,
            connections_max=settings.connections_max,
            drain_s_max=settings.drain_s_max,
            when_stopping=gateway.stop_waiting,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stop)
        # What is alive now stays alive: the collector need never look at it again, nor as often as
        # in a program that makes cycles.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)
        host, port = listener.getsockname()[:2]
        log.info("gateway.listening", extra={"host": host, "port": port})
        serving = asyncio.create_task(server.run_until_stopped(), name="gateway.serve")
        with ended_by_bugs():
            await asyncio.wait({serving, *gateway.background}, return_when=asyncio.FIRST_COMPLETED)
            server.stop()
            await serving
        for task in gateway.background:
            if task.done():
                task.result()  # a bug: it ends the process, whoever watches starts another


if __name__ == "__main__":
    sys.exit(main())
