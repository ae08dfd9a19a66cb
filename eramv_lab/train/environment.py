"""What a run was made with: versions, git state, machine. Nothing heavy is imported."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import eramv_lab

PACKAGES = ("torch", "lightning", "transformers", "peft", "numpy", "safetensors", "mlflow")


def environment() -> dict[str, Any]:
    """Plain data: `versions`, `git`, `machine`."""
    return {"versions": versions(), "git": git_state(), "machine": machine()}


def versions() -> dict[str, str]:
    """Versions of this program, Python and the packages that decide results."""
    found = {"eramv_lab": eramv_lab.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state(folder: Path | None = None) -> dict[str, Any]:
    """Commit, branch and whether files differ from it; empty where the program is no checkout."""
    folder = folder or Path(eramv_lab.__file__).parent
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    return {
        "commit": commit,
        "branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no")),
    }


def machine() -> dict[str, Any]:
    """Processor, cores of this process, memory, graphics cards."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "platform": platform.platform(),
        "cpus": cores(),
        "memory_gib": round(memory / 2**30, 1),
        "gpus": gpus(),
    }


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus() -> list[str]:
    """Identifiers of the CUDA devices that this process may use, for `CUDA_VISIBLE_DEVICES`."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [x.strip() for x in visible.split(",") if x.strip() not in ("", "-1")]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=index", "--format=csv,noheader"]
    return (_output(query, Path.cwd()) or "").split()


def _git(folder: Path, *args: str) -> str | None:
    # without its locks: a `git status` that is killed would leave one behind in the repository
    return _output(["git", "--no-optional-locks", *args], folder)


def _output(command: list[str], folder: Path) -> str | None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
