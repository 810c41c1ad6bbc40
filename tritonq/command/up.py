"""`tritonq up` at the terminal: what happens, in one line each, and where things listen."""

import asyncio
import contextlib
from pathlib import Path

from rich.console import Console
from rich.text import Text

from standalone.installation import Options
from standalone.server import CannotStart
from standalone.state import Running
from standalone.supervisor import WORSE, Event
from standalone.up import Work, until_stopped, up

FAILED = 1


def run_up(options: Options, notes: Console, at_work: Work | None = None) -> int:
    """Run everything until Ctrl-C, or until `at_work` returns; return the exit code."""

    async def stay(running: Running) -> int:
        say(notes, listening(running))
        say(notes, "Ready. Ctrl-C stops everything; what was accepted is kept.")
        return await until_stopped(running)

    try:
        return asyncio.run(
            up(options, tell=lambda event: show_event(event, notes), at_work=at_work or stay)
        )
    except CannotStart as refusal:
        say(notes, f"Cannot start: {refusal}", style="red")
        return FAILED


def show_event(event: Event, notes: Console) -> None:
    say(notes, f"  {event}", style="yellow" if event.kind in WORSE else "dim")


def say(notes: Console, text: str, *, style: str = "") -> None:
    """Print `text` as it is, whether or not somebody still reads."""
    # Whoever read this may have left (`tritonq up | head`, a closed terminal); everything else goes
    # on all the same. rich turns a broken pipe into SystemExit.
    with contextlib.suppress(OSError, SystemExit):
        notes.print(Text(text, style=style))


def listening(running: Running) -> str:
    """Where everything listens."""
    rows = (
        ("API", f"{running.api_url}/v1"),
        ("docs", running.docs_url),
        ("metrics", f"{running.metrics_url}  (gateway)"),
        ("", f"{running.dispatcher_metrics_url}  (dispatcher)"),
        ("", f"{running.triton_metrics_url}  (Triton)"),
        ("Triton HTTP", running.triton_http_url),
        ("Triton gRPC", running.triton_grpc_address),
        ("models", ", ".join(running.models)),
    )
    return "\n".join(f"{name:<13}{where}" for name, where in rows)


def request_to_try(running: Running, image: Path) -> str:
    """One curl that classifies `image`."""
    model = running.models[0]
    return (
        f"curl -s -H 'Content-Type: image/jpeg' -H 'Prefer: wait' --data-binary @{image} "
        f"{running.api_url}/v1/models/triton/{model}/predictions"
    )
