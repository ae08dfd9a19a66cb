"""`ui`: MLflow's server on this machine only, and the link that opens the right page."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path
from types import FrameType

from eramv_lab.errors import LabError, UserError
from eramv_lab.track.store import DATABASE, store_uri
from eramv_lab.track.view import links_of, studies_of

HOST = "127.0.0.1"
PATIENCE = 120.0  # seconds that the server may take to answer


def serve(runs: Path, port: int = 5000, open_browser: bool = False) -> int:
    """Serve the runs on http://127.0.0.1:port until Ctrl-C (or SIGTERM); returns 0.

    Raises UserError where there are no runs or the port is taken, LabError where the store cannot
    be read or the server ends by itself.
    """
    if not (runs / DATABASE).is_file():
        raise UserError(f"{runs}/ has no {DATABASE}: there are no runs yet, run `fit` first")
    _check_port(port)
    before = signal.signal(signal.SIGTERM, _interrupt)
    server = _start(runs, port)
    try:
        links = page_links(store_uri(runs))
        address = f"http://{HOST}:{port}"
        _wait(server, address)
        print(f"MLflow: {address}   (Ctrl-C ends it)", flush=True)
        for name, path in links:
            print(f"  {name:<28} {address}{path}", flush=True)
        if open_browser:
            webbrowser.open(address + (links[0][1] if links else ""))
        code = server.wait()
        raise LabError(f"the MLflow server ended by itself with code {code}")
    except KeyboardInterrupt:
        return 0
    finally:
        _stop(server)
        signal.signal(signal.SIGTERM, before)


def page_links(uri: str, most: int = 5) -> list[tuple[str, str]]:
    """(what it shows, path) for the last studies and sweeps: pages with charts, plain lists.

    Raises LabError where the store cannot be read.
    """
    try:
        studies = studies_of(uri)
    except Exception as error:  # MLflow, SQLAlchemy and alembic each raise their own
        file, reason = uri.removeprefix("sqlite:///"), str(error).split("\n", 1)[0]
        raise LabError(
            f"{file} cannot be read: {reason}\n    If it is damaged, move it away: it only shows "
            "the runs, whose results lie safe in their own folders, and the next `fit` begins "
            "a new one."
        ) from error
    return [link for where in studies[:most] for link in links_of(uri, *where)]


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"port {port} on {HOST} cannot be used ({error}): name another one with --port"
            ) from error


def _start(runs: Path, port: int) -> subprocess.Popen[bytes]:
    """The server in a session of its own, so that Ctrl-C reaches it through `_stop` alone."""
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    artifacts = (runs / "artifacts").resolve().as_uri()
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", store_uri(runs)]
    command += ["--default-artifact-root", artifacts]
    with (runs / "mlflow-server.log").open("wb") as log:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait(server: subprocess.Popen[bytes], address: str) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if server.poll() is not None:
            raise LabError("the MLflow server did not start, see mlflow-server.log in the runs")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    raise LabError(f"the MLflow server gave no answer for {PATIENCE:.0f} s")


def _stop(server: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, sign)
            server.wait(timeout=10)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
