"""A fit that was killed, stopped or ran out of disk goes on to the very same end."""

import errno
import json
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from eramv_lab.errors import LabError
from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.track.store import client_of, init_store, start_study
from eramv_lab.train import checkpoint
from eramv_lab.train.fit import fit_one
from eramv_lab.train.module import LitArm
from eramv_lab.train.plan import Fit, checkpoint_steps, clear, fit_of

RECIPE = """
model:
  vision: {type: tiny, width: 32, layers: 1}
  anchors: {type: cls_topk, count: 4}
  connector: mlp2x_gelu
  language: {type: tiny, width: 48, layers: 3, ffn: 64}
  band: {start: 2, length: 1}
data: {folder: FOLDER, world: {train: 20, test: 4, val: 4, questions: 2}}
train:
  steps: 9
  images: 4
  questions: 2
  accumulate: ACCUMULATE
  workers: WORKERS
  roles: {vision: full}
  validate_every: 3
  validate_images: 4
  log_every: 1
  checkpoint_every: 2
evaluate: {images: 2}
trainer: {accelerator: cpu}
"""
"""Five batches an epoch, so that checkpoints fall into the middle and onto the end of one."""
OWN = """
model:
  language:
    type: hf
    config: {model_type: llama, vocab_size: 70, hidden_size: 32, intermediate_size: 48,
             num_hidden_layers: 4, num_attention_heads: 2, attention_dropout: 0.3}
train: {roles: {vision: frozen}, by_length: true}
trainer: {precision: bf16-mixed}
"""
"""What else must come back: random streams, half precision, features from a file."""
Break = Callable[[int], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resume")
    for workers in (0, 2):
        for accumulate in (1, 2):
            text = RECIPE.replace("FOLDER", str(path / "data")).replace("WORKERS", str(workers))
            text = text.replace("ACCUMULATE", str(accumulate))
            (path / f"w{workers}a{accumulate}.yaml").write_text(text)
    (path / "own.yaml").write_text(f"extends: w0a2.yaml\n{OWN}")
    return path


def planned(folder: Path, runs: str, workers: int = 0, accumulate: int = 1, name: str = "") -> Fit:
    arm = load_recipe(folder / f"{name or f'w{workers}a{accumulate}'}.yaml").arms["main"]
    return fit_of(arm, 3, "resume", folder / runs)


@pytest.fixture(scope="module")
def whole(folder: Path) -> Callable[[int], Path]:
    """The folder of a fit that nothing has interrupted."""

    def fitted(accumulate: int) -> Path:
        fit = planned(folder, f"whole{accumulate}", accumulate=accumulate)
        if fit.result() is None:
            clear(fit)
            fit_one(fit.folder, fit.plan())
        return fit.folder

    return fitted


def apart(fit: Fit, break_at: Callable[[], None], track: str | None = None) -> int | None:
    """Fit in a forked process that `break_at` has prepared; its exit code."""

    def run() -> None:
        break_at()
        fit_one(fit.folder, fit.plan(track))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    return process.exitcode


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def nth_call(owner: Any, name: str, number: int, do: Callable[[], Any]) -> None:
    """Let the `number`-th call of a function do something before it begins."""
    plain, calls = getattr(owner, name), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            do()
        return plain(*args, **kwargs)

    setattr(owner, name, counted)


def killed_while_saving(number: int) -> None:
    """SIGKILL when half of the `number`-th checkpoint has been written."""
    plain = torch.save

    def half(state: Any, file: Any) -> None:
        plain(state, file)
        file.truncate(file.tell() // 2)
        file.flush()
        kill()

    def swap() -> None:
        torch.save = half

    nth_call(checkpoint, "save", number, swap)


MOMENTS: dict[str, Break] = {
    "training": lambda n: nth_call(LitArm, "training_step", n, kill),
    "validation": lambda n: nth_call(LitArm, "validation_step", 1 + n // 3, kill),
    "saving": lambda n: killed_while_saving(max(1, n // 2)),
}


def same(one: Path, other: Path) -> None:
    """Weights, curves and answers are equal to the last bit."""
    mine, its = (load_file(f / "model.safetensors") for f in (one, other))
    assert mine.keys() == its.keys()
    assert all(torch.equal(mine[name], its[name]) for name in mine)
    for name in ("curves.csv", "predictions.jsonl"):
        assert (one / name).read_text() == (other / name).read_text(), name


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    ("workers", "accumulate"),
    [(2, 1), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0, 1), (0, 2)))],
)
def test_killed_at_random_steps_it_ends_the_same(folder, whole, moment, workers, accumulate):
    fit = planned(folder, f"killed-{moment}-{workers}-{accumulate}", workers, accumulate)
    clear(fit)
    first = random.Random(f"{moment} {workers} {accumulate}").randrange(1, 8)
    for step in (first, 1):
        code = apart(fit, lambda step=step: MOMENTS[moment](step))
        assert code == -signal.SIGKILL and fit.result() is None
        clear(fit)  # as the study does before it starts a fit
    reached = (checkpoint_steps(fit.folder) or [0])[0]
    assert apart(fit, lambda: None) == 0
    same(fit.folder, whole(accumulate))
    result = fit.result()
    assert result and result["stints"][-1]["from_step"] == reached
    assert not (fit.folder / "checkpoints").exists()


def test_dropout_half_precision_and_features_come_back_too(folder):
    whole, fit = (planned(folder, f"own-{n}", name="own") for n in range(2))
    for one in (whole, fit):
        clear(one)
    fit_one(whole.folder, whole.plan())
    assert apart(fit, lambda: nth_call(LitArm, "training_step", 11, kill)) == -signal.SIGKILL
    assert checkpoint_steps(fit.folder)[0] == 4
    assert apart(fit, lambda: None) == 0
    same(fit.folder, whole.folder)


def test_each_batch_draws_from_a_stream_of_its_own(folder):
    """Dropout is on, and it is the step's and not the process's."""
    lit = LitArm(planned(folder, "streams", name="own").plan()["recipe"], 3)
    drawn = []
    for step, part in ((0, 0), (0, 1), (1, 2), (1, 2)):
        lit.trainer = SimpleNamespace(world_size=1, global_rank=0, global_step=step)  # type: ignore[assignment]
        lit.on_train_batch_start(None, part)
        drawn.append(torch.rand(1).item())
    assert len(set(drawn)) == 3 and drawn[2] == drawn[3]


def test_killed_while_answering_it_does_not_train_again(folder, whole):
    import eramv_lab.train.fit as module

    fit = planned(folder, "answering")
    clear(fit)
    assert apart(fit, lambda: nth_call(module, "answer_all", 1, kill)) == -signal.SIGKILL
    assert checkpoint_steps(fit.folder)[0] == 9
    assert apart(fit, lambda: nth_call(LitArm, "training_step", 1, kill)) == 0
    same(fit.folder, whole(1))


def test_sigterm_saves_between_two_steps_and_exits_143(folder, whole):
    fit = planned(folder, "terminated")
    clear(fit)

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    assert apart(fit, lambda: nth_call(LitArm, "training_step", 4, stop)) == 143
    assert checkpoint_steps(fit.folder)[0] == 4  # not a step of `checkpoint_every`
    assert not (fit.folder / "error.txt").exists()
    assert apart(fit, lambda: None) == 0
    same(fit.folder, whole(1))


def full_disk(number: int) -> Callable[[], None]:
    """A disk on which the `number`-th checkpoint has no room."""

    def swap() -> None:
        plain = torch.save

        def no_room(state: Any, file: Any) -> None:
            plain({}, file)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        torch.save = no_room

    return lambda: nth_call(checkpoint, "save", number, swap)


def test_a_full_disk_leaves_the_last_checkpoint_and_one_clear_message(folder, whole):
    fit = planned(folder, "full")
    clear(fit)
    assert apart(fit, full_disk(2)) == 1
    assert checkpoint_steps(fit.folder) == [2]
    assert [p.name for p in (fit.folder / "checkpoints").iterdir()] == ["step-00000002.pt"]
    told = (fit.folder / "error.txt").read_text().strip().splitlines()[-1]
    assert "step 4 cannot be written" in told and "No space left on device" in told
    assert "that of step 2 is whole" in told
    assert apart(fit, lambda: None) == 0
    same(fit.folder, whole(1))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(folder, whole):
    fit = planned(folder, "damaged")
    clear(fit)
    apart(fit, lambda: nth_call(LitArm, "training_step", 6, kill))
    assert checkpoint_steps(fit.folder) == [4, 2]
    newest = fit.folder / "checkpoints" / "step-00000004.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    newest.write_bytes(content)
    with pytest.warns(UserWarning, match="passed over"):
        state = checkpoint.newest(fit.folder)
    assert state and state["step"] == 2
    assert apart(fit, lambda: None) == 0
    same(fit.folder, whole(1))


def test_a_checkpoint_of_another_fit_is_passed_over(folder, whole):
    fit, other = planned(folder, "mine"), planned(folder, "other-seed")
    other = fit_of(other.arm, 4, other.study, other.folder.parent)
    for one, step in ((fit, 4), (other, 8)):
        clear(one)
        apart(one, lambda step=step: nth_call(LitArm, "training_step", step, kill))
    foreign = other.folder / "checkpoints" / "step-00000006.pt"
    (fit.folder / "checkpoints" / foreign.name).write_bytes(foreign.read_bytes())
    (fit.folder / "checkpoints" / "step-00000020.pt").mkdir()
    assert apart(fit, lambda: None) == 0
    same(fit.folder, whole(1))
    assert fit.result()["stints"][-1]["from_step"] == 2


def test_a_checkpoint_that_would_run_code_is_passed_over(tmp_path: Path):
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "checkpoints").mkdir()
    torch.save({"format": 1, "step": 1, "x": Bomb()}, tmp_path / "checkpoints" / "step-00000001.pt")
    with pytest.warns(UserWarning, match="passed over"):
        assert checkpoint.newest(tmp_path) is None
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_another_model_is_refused(folder):
    fit = planned(folder, "other")
    clear(fit)
    state = {"step": 2, "model": {"other": torch.zeros(1)}}
    from eramv_lab.train.resume import load_weights

    with pytest.raises(LabError, match="of another model"):
        load_weights(LitArm(fit.plan()["recipe"], 3), state)


def test_mlflow_goes_on_with_the_run_it_had(folder):
    runs = folder / "tracked"
    fit = planned(folder, "tracked/resume")
    clear(fit)
    track = runs / "track.json"
    from dataclasses import asdict

    uri = init_store(runs)
    track.write_text(json.dumps(asdict(start_study(uri, "resume"))))
    apart(fit, lambda: nth_call(LitArm, "training_step", 8, kill), str(track))
    study = start_study(uri, "resume")  # closes what the kill left open
    client = client_of(uri)
    (left,) = client.search_runs([study.experiment_id], "tags.`eramv.kind` = 'fit'")
    assert left.info.status == "KILLED"
    assert apart(fit, lambda: None, str(track)) == 0
    (run,) = client.search_runs([study.experiment_id], "tags.`eramv.kind` = 'fit'")
    assert run.info.run_id == left.info.run_id and run.info.status == "FINISHED"
    for name in ("train/loss", "val/loss"):
        steps = [m.step for m in client.get_metric_history(run.info.run_id, name)]
        assert len(steps) == len(set(steps))
        lines = (fit.folder / "curves.csv").read_text().splitlines()
        assert sorted(steps) == [int(line.split(",")[0]) for line in lines if f",{name}," in line]
    assert run.data.metrics["accuracy"] == fit.result()["row"]["accuracy"]
