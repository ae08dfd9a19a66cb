"""Several processes share one study in PostgreSQL."""

import os
from collections import Counter
from pathlib import Path

from eramv_lab.sweep.launch import launch, parse_launcher


def search(url: str, name: str, trials: int, worker: str) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(url)
    study = optuna.create_study(study_name=name, storage=storage, load_if_exists=True)
    for _ in range(trials):
        trial = study.ask()
        trial.set_user_attr("pid", os.getpid())
        study.tell(trial, trial.suggest_float("x", -1, 1) ** 2)
    storage.remove_session()


def test_two_processes_share_a_study(postgres: str, tmp_path: Path) -> None:
    import optuna

    storage = optuna.storages.RDBStorage(postgres)  # the tables are there before any worker
    optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
    settings = parse_launcher("local", "launcher", [])
    assert settings is not None
    args = {"url": postgres, "name": "s", "trials": 5}
    target = f"{__name__}:search"
    ends = launch(settings, target, args, workers=2, root=tmp_path, preload=("optuna",))
    assert [end.error for end in ends] == [None, None]
    trials = optuna.load_study(study_name="s", storage=storage).trials
    assert [trial.number for trial in trials] == list(range(10))
    assert sorted(Counter(trial.user_attrs["pid"] for trial in trials).values()) == [5, 5]
    storage.remove_session()
