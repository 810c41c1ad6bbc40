"""The NATS of docker-compose.yml: its own configuration file, and the real server reading it."""

import asyncio
import json
import os
import re
import socket
import sys
from pathlib import Path

from tests.services import ROOT, free_ports
from tests.tickets import until

NUMBERLIKE = "12e45"  # what `openssl rand -hex` gives now and then


async def test_a_token_is_asked_for_even_if_it_looks_like_a_number(tmp_path: Path) -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    (given,) = re.findall(r"environment: { NATS_TOKEN: '(.*)' }", compose)
    token = re.sub(r"\$\{[^}]*}", NUMBERLIKE, given)
    port, monitor_port = map(str, free_ports(2))
    config = tmp_path / "nats.conf"
    config.write_text(
        (ROOT / "deploy" / "nats.conf").read_text().replace("/data", f"{tmp_path}/data")
    )
    server = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("nats-server"), "-c", config,
        "-a", "127.0.0.1", "-p", port, "-m", monitor_port,
        env={**os.environ, "NATS_TOKEN": token}, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:

        async def listens() -> bool:
            try:
                return await asyncio.to_thread(lets_in, int(port), NUMBERLIKE)
            except OSError:
                assert server.returncode is None
                return False

        await until(listens)
        for wrong in ("", "wrong", "12e4"):
            assert not await asyncio.to_thread(lets_in, int(port), wrong)
    finally:
        server.terminate()
        await server.wait()


def lets_in(port: int, token: str) -> bool:
    """Say hello as a client does; the server answers PONG or an error."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        hello = json.dumps({"auth_token": token, "verbose": False})
        connection.sendall(f"CONNECT {hello}\r\nPING\r\n".encode())
        heard = b""
        while (more := connection.recv(4096)) and b"PONG" not in heard + more:
            heard += more
        return bool(more)
