"""The verbs of finished models: let go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eramv_lab.cli_args import Runs
from eramv_lab.errors import Problem, UserError
from eramv_lab.recipe import complete


def export(
    run: Annotated[
        str,
        typer.Argument(help="A fit's folder, or its study.", autocompletion=complete.studies),
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write, a new one.")],
    arm: Annotated[str | None, typer.Option(help="Of a study: this arm's fit.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of a study: this seed's fit.")] = None,
    push: Annotated[
        str | None, typer.Option(metavar="REPO", help="Send it to this repository of the hub.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="... that only you see.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Write a finished fit as a folder that transformers loads, with its card and hashes."""
    from eramv_lab.export import push as hub
    from eramv_lab.export.release import export_run, find_run

    if private and push is None:
        raise UserError(Problem(message="goes with --push", key="--private"))
    if push is not None:
        hub.check_repo(push)
    print(export_run(find_run(run, runs, arm, seed), out))
    if push is not None:
        print(hub.push(out, push, private=private))
