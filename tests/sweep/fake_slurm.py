"""SLURM's commands on one machine, as little of them as submitit uses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

HOME = Path(os.environ.get("FAKE_SLURM", "."))
NAMES = ("sbatch", "srun", "sacct", "scancel", "scontrol")


def install(folder: Path) -> None:
    """Put the commands into `folder`, which belongs on PATH."""
    for name in NAMES:
        file = folder / name
        file.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__)} {name} "$@"\n')
        file.chmod(0o755)


def sbatch(script: str) -> None:
    number = len(list(HOME.glob("*.sh"))) + 1
    text = Path(script).read_text()
    copy = HOME / f"{number}.sh"
    copy.write_text(text)
    array = re.search(r"--array='?0-(\d+)", text)
    ids = [f"{number}_{i}" for i in range(int(array[1]) + 1)] if array else [str(number)]
    for job in ids:
        _start(job)
    print(f"Submitted batch job {number}")


def srun(*command: str) -> None:
    rest = list(command)
    while rest[0].startswith("--"):
        del rest[: 1 if rest[0] == "--unbuffered" else 2]
    os.execvp(rest[0], rest)


def sacct(*_: str) -> None:
    print("JobID|State|NodeList")
    for path in HOME.glob("*.state"):
        print(f"{path.stem}|{path.read_text()}|here")


def scancel(job: str) -> None:
    (HOME / f"{job}.state").write_text("CANCELLED by 0")
    os.killpg(int((HOME / f"{job}.pid").read_text()), signal.SIGTERM)


def scontrol(verb: str, job: str) -> None:
    assert verb == "requeue"
    (HOME / f"{job}.state").write_text("REQUEUED")


def run(job: str) -> None:
    """What stands beside a job: its state follows from how it ended."""
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)  # unlike SIG_IGN, not passed on to the job
    state = HOME / f"{job}.state"
    told = {"SLURM_JOB_ID": job.partition("_")[0], "SLURM_JOB_NODELIST": "here"}
    if "_" in job:
        told["SLURM_ARRAY_JOB_ID"], told["SLURM_ARRAY_TASK_ID"] = job.split("_")
    while True:
        state.write_text("RUNNING")
        script = HOME / f"{job.partition('_')[0]}.sh"
        code = subprocess.run(["bash", script], env=os.environ | told).returncode
        if state.read_text() != "REQUEUED":
            break
    if state.read_text() == "RUNNING":
        state.write_text({0: "COMPLETED", 137: "NODE_FAIL"}.get(code, "FAILED"))


def _start(job: str) -> None:
    (HOME / f"{job}.state").write_text("PENDING")
    command = [sys.executable, __file__, "run", job]
    with (HOME / f"{job}.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    (HOME / f"{job}.pid").write_text(str(process.pid))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
