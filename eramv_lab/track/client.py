"""What the lab asks of `MlflowClient`: a quiet client, a search by tags, numbers and files."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def client_of(uri: str) -> MlflowClient:
    """A client of the store at `uri`, with telemetry off and quiet migrations."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def quoted(text: str) -> str:
    """`text` as a value in MLflow's search language."""
    return f'"{text}"' if "'" in text else f"'{text}'"


def search(
    client: MlflowClient, experiment_id: str, tags: Mapping[str, str], status: str | None = None
) -> list[Run]:
    """Runs with all these tags (and this status), newest first."""
    parts = [f"tags.`{key}` = {quoted(value)}" for key, value in tags.items()]
    if status:
        parts.append(f"attributes.status = '{status}'")
    found: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], " and ".join(parts), page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def log_numbers(client: MlflowClient, run_id: str, numbers: Mapping[str, Any]) -> None:
    """Log each number that is finite, as the value at step 0."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [
        Metric(key, float(value), now, 0)
        for key, value in numbers.items()
        if isinstance(value, int | float) and math.isfinite(value)
    ]
    if metrics:
        client.log_batch(run_id, metrics=metrics)


def log_files(client: MlflowClient, run_id: str, files: Iterable[Path]) -> None:
    """Hand over the files that exist."""
    for file in files:
        if file.is_file():
            client.log_artifact(run_id, str(file))
