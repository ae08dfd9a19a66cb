"""Tickets change hands: taken once, given back by whoever notices, never lost, never doubled."""

from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from eramv_lab.errors import LabError
from eramv_lab.sweep import store
from eramv_lab.sweep.config import Heartbeat
from eramv_lab.sweep.domains import parse_domain
from eramv_lab.sweep.records import state_of
from eramv_lab.sweep.store import LIVES, Tickets, cut_off, database, give_back, open_storage

HEARTBEAT = Heartbeat(every=1, grace=2)


@pytest.fixture
def tickets(tmp_path: Path) -> Tickets:
    domain = parse_domain("model.anchors.count", {"from": 0, "to": 8}, [])
    assert domain is not None
    storage = open_storage(database(tmp_path), HEARTBEAT)
    study = optuna.create_study(storage=storage, study_name="small", direction="maximize")
    return Tickets(study, {"model.anchors.count": domain}, HEARTBEAT)


def states(tickets: Tickets) -> list[str]:
    return [state_of(trial) for trial in tickets.trials()]


def age(tickets: Tickets, trial: int, seconds: int) -> None:
    """Let the last sign of life of a trial be so long ago."""
    with tickets.storage._backend.engine.begin() as there:  # type: ignore[attr-defined]
        there.execute(
            sqlalchemy.text(
                "update trial_heartbeats set heartbeat = datetime(heartbeat, :ago) where trial_id="
                "(select trial_id from trials where number = :number)"
            ),
            {"ago": f"-{seconds} seconds", "number": trial},
        )


def test_a_ticket_that_is_given_back_lives_on_first_of_all(tickets: Tickets) -> None:
    tickets.add({"model.anchors.count": 3}, given="paper")
    tickets.add()
    trial = tickets.take("a/w1")
    assert trial is not None and trial.number == 0
    tickets.tell(trial, label="t000", resumed=1)
    trial_2 = tickets.take("a/w10")
    assert trial_2 is not None and trial_2.number == 1
    give_back(tickets, "a/w1/")
    assert states(tickets) == ["interrupted", "running", "waiting"]
    again = tickets.take("a/w2")
    assert again is not None and again.number == 2 and again.params == trial.params
    told = again.user_attrs
    assert (told["first"], told["lives"], told["given"], told["resumed"]) == (0, 1, "paper", 1)
    give_back(tickets, "b/")
    assert states(tickets) == ["interrupted", "running", "running"]
    give_back(tickets, "", lost=False)
    assert states(tickets)[3:] == ["waiting", "waiting"]
    assert [t.user_attrs["lives"] for t in tickets.trials()[3:]] == [0, 1]


def test_a_trial_has_so_many_lives(tickets: Tickets) -> None:
    tickets.add({"model.anchors.count": 3})
    for _ in range(LIVES + 1):
        assert tickets.take("a/w0") is not None
        give_back(tickets, "a/w0/")
    assert tickets.take("a/w0") is None
    assert states(tickets) == ["interrupted"] * (LIVES + 1) + ["failed"]
    last = tickets.trials()[-1]
    assert last.user_attrs["error"] == f"its worker was lost {LIVES + 1} times"
    give_back(tickets, "")
    assert len(tickets.trials()) == LIVES + 2


def test_what_was_stopped_in_order_costs_no_life(tickets: Tickets) -> None:
    tickets.add({"model.anchors.count": 3})
    for _ in range(LIVES + 3):
        assert tickets.take("a/w0") is not None
        give_back(tickets, "a/w0/", lost=False)
    assert states(tickets)[-1] == "waiting"
    assert tickets.trials()[-1].user_attrs["lives"] == 0


def test_a_trial_without_a_sign_of_life_is_taken_from_whoever_held_it(tickets: Tickets) -> None:
    tickets.add({"model.anchors.count": 3})
    held = tickets.take("elsewhere/w0")  # another machine, which says nothing after that
    assert held is not None
    give_back(tickets)
    assert states(tickets) == ["running"]
    age(tickets, 0, 10)
    give_back(tickets)
    assert states(tickets) == ["interrupted", "waiting"]
    again = tickets.take("here/w0")
    assert again is not None and again.user_attrs["first"] == 0
    assert tickets.close(again, TrialState.COMPLETE, [1.0])
    assert not tickets.close(held, TrialState.COMPLETE, [0.5])  # it comes too late
    assert states(tickets) == ["interrupted", "complete"]


def test_signs_of_life_keep_a_trial(tickets: Tickets) -> None:
    tickets.add()
    trial = tickets.take("a/w0")
    assert trial is not None
    age(tickets, 0, 10)
    with tickets.beating(trial):
        import time

        time.sleep(0.3)
    give_back(tickets)
    assert states(tickets) == ["running"]


def test_a_kill_between_the_end_and_the_next_life(tickets: Tickets) -> None:
    tickets.add({"model.anchors.count": 3})
    trial = tickets.take("a/w0")
    assert trial is not None
    tickets.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    assert cut_off(tickets.trials()[0])
    for _ in range(2):
        give_back(tickets)
        assert states(tickets) == ["interrupted", "waiting"]
    assert tickets.trials()[1].user_attrs["first"] == 0


def test_failed_trials_stay_failed(tickets: Tickets) -> None:
    tickets.add()
    trial = tickets.take("a/w0")
    assert trial is not None
    tickets.tell(trial, error="no luck")
    tickets.close(trial, TrialState.FAIL)
    give_back(tickets, "")
    assert states(tickets) == ["failed"]


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "search.db").write_bytes(b"not a database, whatever its name says" * 100)
    with pytest.raises(LabError, match=r"search\.db: file is not a database"):
        open_storage(database(tmp_path), HEARTBEAT)


def test_a_database_that_is_locked(tickets: Tickets, tmp_path: Path, monkeypatch) -> None:
    import sqlite3

    monkeypatch.setattr(store, "PATIENCE_S", 0.2)
    other = sqlite3.connect(tmp_path / "search.db", isolation_level=None)
    other.execute("begin exclusive")
    with pytest.raises(LabError, match=r"search\.db: another program has locked it"):
        open_storage(database(tmp_path), HEARTBEAT)
    other.close()


def test_passwords_are_not_shown() -> None:
    shown = store.place("postgresql+psycopg://me:secret@host:5432/lab")
    assert shown == "postgresql+psycopg://me@host:5432/lab"


def test_a_kill_while_a_setting_is_written(tickets: Tickets) -> None:
    tickets.add()
    trial = tickets.take("a/w0")
    assert trial is not None
    kind = store.distribution(tickets.domains["model.anchors.count"])
    tickets.storage.set_trial_param(trial._trial_id, "model.anchors.count", 3, kind)
    give_back(tickets, "a/")
    again = tickets.take("a/w0")
    assert again is not None and again.params == {}  # which may have been the half of it
    tickets.settle(again, {"model.anchors.count": 5})
    give_back(tickets, "a/")
    assert tickets.trials()[-1].params == {"model.anchors.count": 5}


def test_a_kill_between_an_error_and_the_end(tickets: Tickets) -> None:
    tickets.add({"model.anchors.count": 3})
    trial = tickets.take("a/w0")
    assert trial is not None
    tickets.tell(trial, error="no luck")
    give_back(tickets, "a/")
    assert states(tickets) == ["failed"]
