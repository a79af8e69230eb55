"""`monosem explore`: browse feature databases on 127.0.0.1."""

import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from monosem.cli.report import open_databases, read_metrics
from monosem.core.errors import ConfigError
from monosem.explorer.server import HOST, create_app, serve

HELP = "browse a feature database on 127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Browse feature databases on this machine; nothing leaves it and nothing else may look in."""

    features: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Feature databases, of dictionaries or of neurons."""
    metrics: tuple[Path, ...] = ()
    """Evaluations (folders), or a JSON file that holds `{"dictionaries": {name: {...}}}`."""
    port: int = 8017
    """Port on 127.0.0.1; 0 takes a free one."""


def main(arguments: list[str]) -> int:
    """Serve until Ctrl-C, which ends it cleanly."""
    given = tyro.cli(Arguments, args=arguments, prog="monosem explore", description=HELP)
    listener = _listen(given.port)
    with listener:
        metrics, _ = read_metrics(given.metrics)
        app = create_app(open_databases(given.features), metrics)
        print(f"http://{HOST}:{listener.getsockname()[1]}/", flush=True)
        sys.stderr.write("Ctrl-C ends it.\n")
        serve(app, listener)
    return 0


def _listen(port: int) -> socket.socket:
    """Return a socket that holds the port, so that a taken one is said before any work."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"`--port` must be in 0..65535, got {port}.")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()  # whoever reads the address may connect at once, and waits for the pages
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"Port {port} on {HOST} cannot be taken ({error.strerror}). Pass another `--port`, or 0."
        ) from error
    return listener
