"""Signals are heard on the main thread alone."""

import signal
import threading

from eramv_lab.train.stop import StopSignal


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
