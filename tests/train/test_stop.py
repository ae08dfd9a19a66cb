"""Signals are heard on the main thread alone; what they end says how to go on."""

import signal
import threading
from io import StringIO

import pytest
from rich.console import Console

from eramv_lab.train.stop import STOPS, Signalled, Stopped, StopSignal, ended_by


def test_off_the_main_thread_nothing_is_heard() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def run() -> None:
        with StopSignal() as stop:
            stop.listen()
            seen.extend([stop.asked, signal.getsignal(signal.SIGTERM)])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [0, before]


def test_on_the_main_thread_it_notes_the_signal() -> None:
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked == signal.SIGTERM


@pytest.mark.parametrize(
    ("stop", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped; the same command"),
        (Signalled(signal.SIGTERM), 143, "stopped by SIGTERM; the same command"),
        (Stopped(signal.SIGUSR1), 143, "stopped by SIGUSR1; the same command"),
        (Stopped(signal.SIGINT), 130, "stopped by SIGINT; the same command"),
    ],
)
def test_what_ends_a_study_is_said_with_its_exit_code(
    stop: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    assert isinstance(stop, STOPS)
    told = StringIO()
    assert ended_by(stop, Console(file=told, width=20)) == code
    assert told.getvalue().startswith(said) and told.getvalue().count("\n") == 1
