"""Training curves: into a CSV file at once, into MLflow in batches from a thread of its own."""

from __future__ import annotations

import queue
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from eramv_lab.track.client import client_of

HEAD = "step,name,value\n"
MOST = 1000  # metrics that MLflow takes in one batch


class CurveWriter:
    """Points of curves named `train/...` and `val/...`; a context manager.

    `file` gets every point (`step,name,value`) as it comes. MLflow gets them in batches, every
    `seconds` or `points`, from a daemon thread: training never waits for the database, and a store
    that fails is a warning, not the end of a fit. Without `uri` and `run_id` only the file is
    written.

    `kept`: what the file begins with (the `text` of an earlier writer, whose run goes on). MLflow
    then gets the points it has not got yet, and none twice.
    """

    def __init__(
        self,
        uri: str | None,
        run_id: str | None,
        file: Path,
        *,
        kept: str = "",
        points: int = 200,
        seconds: float = 5.0,
    ) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._file = file, file.open("w", buffering=1)
        self._file.write(kept or HEAD)
        self._points, self._seconds, self._resumed = points, seconds, bool(kept)
        self._queue: queue.SimpleQueue[tuple[str, float, int, int] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        if uri and run_id:
            self._thread = threading.Thread(target=self._send_all, args=(uri, run_id), daemon=True)
            self._thread.start()
            now = int(time.time() * 1000)
            for line in kept.splitlines()[1:]:
                step, name, value = line.split(",")
                self._queue.put((name, float(value), now, int(step)))

    def text(self) -> str:
        """What the file holds now."""
        self._file.flush()
        return self._path.read_text()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One point on each named curve, at `step` (optimizer steps)."""
        now = int(time.time() * 1000)
        for name, value in values.items():
            self._file.write(f"{step},{name},{float(value)!r}\n")
            if self._thread is not None:
                self._queue.put((name, float(value), now, step))

    def close(self) -> None:
        """Write what is left; every point is stored when this returns."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        self._file.close()

    def __enter__(self) -> CurveWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send_all(self, uri: str, run_id: str) -> None:
        client: Any = None
        failed = False
        open_ = True
        there: dict[str, int] = {}
        while open_:
            batch, open_ = self._gather()
            if failed or not batch:
                continue
            try:
                from mlflow.entities import Metric

                client = client or client_of(uri)
                if self._resumed:
                    for name in {point[0] for point in batch} - there.keys():
                        there[name] = last_step(client, run_id, name)
                    batch = [point for point in batch if point[3] > there[point[0]]]
                for i in range(0, len(batch), MOST):
                    client.log_batch(run_id, metrics=[Metric(*p) for p in batch[i : i + MOST]])
            except Exception as error:
                failed = True
                warnings.warn(
                    f"MLflow takes no more curves, curves.csv has them: {error}", stacklevel=2
                )

    def _gather(self) -> tuple[list[tuple[str, float, int, int]], bool]:
        """The next batch, and whether more may follow."""
        batch: list[tuple[str, float, int, int]] = []
        until = time.monotonic() + self._seconds
        while len(batch) < self._points:
            try:
                point = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if point is None:
                return batch, False
            batch.append(point)
        return batch, True


def last_step(client: Any, run_id: str, name: str) -> int:
    """The largest step that a curve has in MLflow; -1 for one that has none."""
    return max((point.step for point in client.get_metric_history(run_id, name)), default=-1)
