"""`python -m dispatcher`: reads the settings, opens the parts, works until SIGTERM or SIGINT.

Exit status: 0 after a stop that was asked for, 2 where the configuration is wrong, 1 after a bug.
"""

import asyncio
import gc
import logging
import signal
import sys
import time
from contextlib import AsyncExitStack

import uvloop
from pydantic import ValidationError

from blobs import Blobs
from broker import Broker
from configuration.process import (
    EXIT_BUG,
    EXIT_WRONG_CONFIGURATION,
    WrongConfiguration,
    ended_by_bugs,
    log_problems,
)
from contract.catalog import Catalog
from contract.queue import QueueNames
from dispatcher.encode import Encoder
from dispatcher.execute import ExecutionLimits, Parts
from dispatcher.outages import Outage
from dispatcher.serve import Dispatcher, DispatcherLimits
from dispatcher.settings import DispatcherSettings
from inference import BrokenRepository, Triton, read_catalog
from ledger import Ledger, UnfitLedger
from tasks.registry import task
from telemetry.exposition import serving
from telemetry.logs import configure_logs

log = logging.getLogger(__name__)


def main() -> int:
    try:
        settings = DispatcherSettings()
    except ValidationError as error:
        configure_logs("dispatcher")
        log_problems(DispatcherSettings, error)
        return EXIT_WRONG_CONFIGURATION
    configure_logs("dispatcher", settings.log_level)
    # What is loaded by now stays: the collector need not look at it again, nor as often as for a
    # program that makes cycles. Saves about a tenth of the time per prediction.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    status = 0
    try:
        uvloop.run(_serve(settings))
    except* (WrongConfiguration, UnfitLedger) as errors:
        log.critical("configuration.wrong", extra={"reason": str(errors.exceptions[0])})
        status = EXIT_WRONG_CONFIGURATION
    except* Exception:
        log.critical("dispatcher.bug", exc_info=True)
        status = EXIT_BUG
    return status


async def _serve(settings: DispatcherSettings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    catalog = _catalog(settings)
    async with AsyncExitStack() as opened:
        parts = await _open_parts(settings, opened)
        dispatcher = Dispatcher(
            settings.name, catalog, settings.model_repository, parts, _limits(settings)
        )
        if settings.metrics_port:
            _expose(settings, dispatcher, opened)
        log.info("dispatcher.started", extra={"dispatcher": settings.name})
        with ended_by_bugs():
            await dispatcher.run(stop)
    log.info("dispatcher.stopped")


def _catalog(settings: DispatcherSettings) -> Catalog:
    try:
        catalog = read_catalog(
            settings.model_repository,
            offered=settings.models,
            config_name=settings.model_config_name,
        )
        for model in catalog:
            task(model.task).check_model(model)
    except (BrokenRepository, ValueError) as error:
        raise WrongConfiguration(str(error)) from error
    if not len(catalog):
        raise WrongConfiguration(f"{settings.model_repository} holds no model that is built")
    return catalog


async def _open_parts(settings: DispatcherSettings, opened: AsyncExitStack) -> Parts:
    """Everything a dispatcher works with. None of it has to be up yet."""
    token = settings.nats_token
    try:
        ledger = await Ledger.connect(settings.postgres_dsn.get_secret_value())
        blobs = Blobs.open(settings.blobs_url)
    except ValueError as error:
        raise WrongConfiguration(str(error)) from error
    opened.push_async_callback(ledger.close)
    broker = await Broker.connect(
        settings.nats_url,
        names=QueueNames(settings.namespace),
        token=token.get_secret_value() if token else None,
        client_name="dispatcher",
    )
    opened.push_async_callback(broker.close)
    triton = Triton(settings.triton_address)
    opened.push_async_callback(triton.close)
    blobs_outage = Outage("blobs")
    encoder = Encoder(settings.decode_threads, blobs, blobs_outage)
    opened.callback(encoder.close)
    return Parts(
        triton=triton,
        ledger=ledger,
        blobs=blobs,
        broker=broker,
        encoder=encoder,
        ledger_outage=Outage("ledger"),
        blobs_outage=blobs_outage,
        now_ms=lambda: time.time_ns() // 1_000_000,
    )


def _limits(settings: DispatcherSettings) -> DispatcherLimits:
    return DispatcherLimits(
        execution=ExecutionLimits(
            attempts_max=settings.attempts_max,
            infer_timeout_s=settings.infer_timeout_s,
            keep_inputs=settings.keep_inputs,
        ),
        calls_in_flight=settings.calls_in_flight,
        batch_rows_max=settings.batch_rows_max,
        held_bytes_max=settings.held_bytes_max,
        drain_s_max=settings.drain_s_max,
        retention_days=settings.retention_days,
    )


def _expose(settings: DispatcherSettings, dispatcher: Dispatcher, opened: AsyncExitStack) -> None:
    host, port = settings.metrics_host, settings.metrics_port
    try:
        opened.enter_context(serving(host, port, dispatcher.health))
    except OSError as error:
        raise WrongConfiguration(f"cannot serve metrics on {host}:{port}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
