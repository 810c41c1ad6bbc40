"""`tritonq up`: everything on one machine, from the first check to the last stopped process."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from standalone.installation import Installation, Options, plan
from standalone.leftover import end_session, remember_session
from standalone.models import choose_models
from standalone.nats import Nats
from standalone.ports import choose
from standalone.postgres import Postgres
from standalone.program import Program
from standalone.readiness import missing_parts
from standalone.server import CannotStart, set_aside_if_large
from standalone.state import Running, State, owned, writing
from standalone.supervisor import Event, Supervisor, first_refusal
from standalone.triton import Triton, TritonNotHealed
from telemetry.logs import configure_logs

log = logging.getLogger(__name__)

READY_S_MAX = 60.0  # from "all have started" to "a real inference succeeded"; 1 s when idle
READY_POLL_S = 0.05
LEFTOVER_GRACE_S = 10.0  # they were told to stop by the kernel when their supervisor died
STOP_SIGNALS = {  # of what a killed run may have left, in the order in which it is ended
    "gateway": Program.stop_signal,
    "dispatcher": Program.stop_signal,
    "triton": Triton.stop_signal,
    "nats": Nats.stop_signal,
    "postgres": Postgres.stop_signal,
}

Tell = Callable[[Event], None]
Work = Callable[[Running], Awaitable[int]]  # returns the exit code


async def until_stopped(_: Running) -> int:
    """Stay up until somebody says stop."""
    await asyncio.get_running_loop().create_future()
    return 0


async def up(options: Options, *, tell: Tell, at_work: Work = until_stopped) -> int:
    """Run everything while `at_work` runs, at most until SIGINT or SIGTERM; return an exit code.

    `at_work` is called once a real inference has succeeded. On the first signal it is cancelled and
    everything is stopped cleanly, which takes 15 s at most; on the second everything is killed.
    Call this from the main thread, with nothing else in its loop.

    Args:
        tell: called with each event, to be shown as one line.

    Raises:
        CannotStart: with the reason, in words for the terminal. Nothing is left running.
    """
    options = _absolute(options)
    _refuse_white_space(options)
    with owned(options.state) as state, _logged(state):
        await asyncio.to_thread(_end_leftovers, state)
        models = choose_models(options.repository, wanted=options.models)
        installation = plan(options, state, choose(options.ports), models)
        supervisor = Supervisor(installation.services, tell=tell)
        working = asyncio.create_task(_work(installation, supervisor, state, at_work))
        with _signals(working, supervisor):
            try:
                return await working
            except asyncio.CancelledError:
                return 0  # a signal: stopping is what was asked
            finally:
                state.retract()
                await supervisor.stop()


async def _work(
    installation: Installation, supervisor: Supervisor, state: State, at_work: Work
) -> int:
    await supervisor.start()
    await _require_loaded(installation)
    try:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(supervisor.watch())
            await _ready(installation)
            running = installation.running(os.getpid())
            state.announce(running)
            code = await at_work(running)
            watching.cancel()
    except BaseExceptionGroup as group:
        raise first_refusal(group) or group from None
    return code


@contextlib.contextmanager
def _logged(state: State) -> Iterator[None]:
    """Keep the log of this process in the state folder: the terminal gets sentences instead."""
    path = state.folder("up") / "up.log"
    with writing(path):
        set_aside_if_large(path)
        opened = path.open("a", encoding="utf-8")
    with opened as stream:
        configure_logs("up", stream=stream)
        try:
            yield
        finally:
            logging.basicConfig(handlers=[logging.NullHandler()], force=True)


@contextlib.contextmanager
def _signals(working: "asyncio.Task[int]", supervisor: Supervisor) -> Iterator[None]:
    """On the first SIGINT or SIGTERM cancel `working`; after that, kill."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if not working.done() and not working.cancelling():
            working.cancel()
        else:
            supervisor.kill()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: the terminal was closed
    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _require_loaded(installation: Installation) -> None:
    """Say at once why a model cannot be served; `_ready` would wait for it in vain.

    Raises:
        CannotStart: with Triton's own reason.
    """
    with contextlib.suppress(TritonNotHealed):  # it has just ended: the supervisor's business
        if refused := await installation.triton.unready_models():
            reasons = "; ".join(f"{model}: {reason}" for model, reason in refused.items())
            raise CannotStart(f"Triton cannot load {reasons}")


async def _ready(installation: Installation) -> None:
    """Wait until the gateway says that a real inference has succeeded.

    Raises:
        CannotStart: not within READY_S_MAX; with what the gateway says is missing.
    """
    deadline = time.monotonic() + READY_S_MAX
    while missing := await asyncio.to_thread(missing_parts, installation.ports.api):
        if time.monotonic() > deadline:
            reasons = "; ".join(f"{part}: {reason}" for part, reason in missing.items())
            raise CannotStart(f"not ready after {READY_S_MAX:.0f} s: {reasons}")
        await asyncio.sleep(READY_POLL_S)


def _end_leftovers(state: State) -> None:
    """End what a killed run left running, lest its ports look taken by strangers."""
    for name, ask in STOP_SIGNALS.items():
        record = state.path / name / f"{name}.pid"
        if end_session(remember_session(record), ask=ask, grace_s=LEFTOVER_GRACE_S):
            log.warning("leftover.ended", extra={"service": name})


def _absolute(options: Options) -> Options:
    return Options(
        state=options.state.resolve(),
        repository=options.repository.resolve(),
        triton_environment=options.triton_environment.absolute(),
        models=options.models,
        ports=options.ports,
        sync_interval=options.sync_interval,
    )


def _refuse_white_space(options: Options) -> None:
    paths: tuple[Path, ...] = (options.state, options.repository, options.triton_environment)
    for path in paths:
        if any(letter.isspace() for letter in str(path)):
            raise CannotStart(
                f"'{path}' has white space in its path, and Triton hangs on that; "
                "move it, or name another folder"
            )
