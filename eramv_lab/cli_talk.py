"""The verbs that ask a finished model: `generate` and `chat`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eramv_lab.cli_args import AsJson, Runs
from eramv_lab.errors import Problem, UserError

if TYPE_CHECKING:
    from eramv_lab.talk.talker import How, Talker

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model folder (a fit's, an exported one), a study of one fit, a hub id.",
    ),
]
Images = Annotated[
    list[Path] | None, typer.Option("--image", help="A picture; several: repeat it.")
]
Adapter = Annotated[str | None, typer.Option(help="Folder or hub id of a peft adapter on it.")]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Cut an answer there; the model's generation config, or 128."),
]
Sample = Annotated[bool, typer.Option("--sample", help="Draw words instead of the likeliest.")]
Temperature = Annotated[
    float | None, typer.Option(min=0, help="Of the draw; above 0 means --sample; 1.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the draw.")]
Device = Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu, cuda, cuda:1.")]
Dtype = Annotated[str, typer.Option(help="auto (as stored), float32, bfloat16, float16.")]


def generate(
    model: Model,
    image: Images = None,
    question: Annotated[str | None, typer.Option("--question", "-q", help="What to ask.")] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl", help='Many: {"image": path, "question": text, ...} a line.'
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="ANSWERS.jsonl", help="Of many: the answers, in order.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Of many: the folder that image paths are below.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Of many: questions answered together.")] = 16,
    show_anchors: Annotated[
        Path | None,
        typer.Option(
            help="Draw anchors and where each band layer looked: a .png; of many, a folder."
        ),
    ] = None,
    adapter: Adapter = None,
    max_new_tokens: MaxNewTokens = None,
    sample: Sample = False,
    temperature: Temperature = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
    runs: Runs = Path("runs"),
) -> None:
    """Ask a model one question, or a file of many; the same line again goes on.

    Of many, a line whose picture turns out broken carries an error, and the exit code is 1.
    """
    many = questions is not None
    _refuse(_misfits(many, question, image, out, images, show_anchors))
    how = _how(max_new_tokens, sample, temperature, seed)
    from eramv_lab.talk.model import find

    place = find(model, runs)
    chosen = {"adapter": adapter, "device": device, "dtype": dtype}
    if many:
        assert questions is not None and out is not None
        _many(place, chosen, questions, out, images, batch, show_anchors, how, as_json)
    else:
        _one(place, chosen, question or "", image or [], show_anchors, how, as_json)


def chat(
    model: Model,
    image: Images = None,
    adapter: Adapter = None,
    max_new_tokens: MaxNewTokens = None,
    sample: Sample = False,
    temperature: Temperature = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    runs: Runs = Path("runs"),
) -> None:
    """Talk with a model about images, in the terminal or from a pipe."""
    how = _how(max_new_tokens, sample, temperature, seed)
    from eramv_lab.talk.chat import chat as talk
    from eramv_lab.talk.pictures import open_pictures

    open_pictures(image or [])
    talker = _load(model, {"adapter": adapter, "device": device, "dtype": dtype}, runs=runs)
    raise typer.Exit(talk(talker, how, image or []))


def _load(place: str, chosen: dict[str, Any], **more: Any) -> Talker:
    from eramv_lab.talk.model import load

    return load(place, **chosen, **more)


def _how(most: int | None, sample: bool, temperature: float | None, seed: int) -> How:
    from eramv_lab.talk.talker import How

    if sample and temperature == 0:
        raise UserError("--sample at --temperature 0 draws nothing; leave one of them out")
    return How(max_new_tokens=most, temperature=temperature or float(sample), seed=seed)


def _misfits(
    many: bool,
    question: str | None,
    image: list[Path] | None,
    out: Path | None,
    images: Path | None,
    show: Path | None,
) -> list[str]:
    """What does not go together among the options of `generate`."""
    if not many:
        alone = {"--out": out, "--images": images}
        found = [f"{name} goes with --questions" for name, value in alone.items() if value]
        if question is None or not question.strip():
            found.append("give --question TEXT, or --questions FILE.jsonl and --out")
        if show is not None and show.suffix.lower() != ".png":
            found.append(f"--show-anchors {show}: of one question it is a .png")
        if show is not None and not image:
            found.append("--show-anchors needs an --image")
        return found
    found = ["--question and --questions are one or the other"] if question is not None else []
    if image:
        found.append("--image goes with --question; the lines of --questions name their own")
    if out is None:
        found.append("--questions needs --out ANSWERS.jsonl")
    if show is not None and show.suffix:
        found.append(f"--show-anchors {show}: of many questions it is a folder")
    return found


def _refuse(problems: Sequence[str | Problem]) -> None:
    told = [Problem(message=one) if isinstance(one, str) else one for one in problems]
    if told:
        raise UserError(told)


def _one(
    place: str,
    chosen: dict[str, Any],
    question: str,
    images: list[Path],
    show: Path | None,
    how: How,
    as_json: bool,
) -> None:
    from eramv_lab.talk.model import load_processor
    from eramv_lab.talk.pictures import open_pictures
    from eramv_lab.talk.talker import Question
    from eramv_lab.talk.words import unknown_words

    processor = load_processor(place)
    problems = unknown_words(processor.tokenizer, question)
    try:
        pictures = open_pictures(images)
    except UserError as error:
        raise UserError([*problems, *error.problems]) from None
    _refuse(problems)
    talker = _load(place, chosen, processor=processor)
    asked = Question(text=question, images=tuple(talker.see(pictures)))
    talker.check(asked)
    answer = talker.answer([asked], how)[0]
    if as_json:
        import json

        row = {"image": [str(one) for one in images], "question": question, **answer.plain()}
        print(json.dumps(row, ensure_ascii=False))
    else:
        print(answer.text)
    if show is not None:
        print(talker.show(asked, answer, show), file=sys.stderr)


def _whole(place: str) -> str:
    return str(Path(place).resolve()) if Path(place).is_dir() else place


def _many(
    place: str,
    chosen: dict[str, Any],
    questions: Path,
    out: Path,
    images: Path | None,
    batch: int,
    show: Path | None,
    how: How,
    as_json: bool,
) -> None:
    from dataclasses import asdict

    from eramv_lab.talk.lines import read_lines
    from eramv_lab.talk.many import answer_file, fingerprint
    from eramv_lab.talk.model import load_processor
    from eramv_lab.talk.words import unknown_words

    processor = load_processor(place)
    lines = read_lines(questions, images, lambda text: unknown_words(processor.tokenizer, text))
    adapter = chosen["adapter"]
    settings = {
        "model": _whole(place),
        "weights": fingerprint(place),
        "adapter": adapter and _whole(adapter),
        "adapter_weights": fingerprint(adapter) if adapter else "",
        "dtype": chosen["dtype"],
        "images": _whole(str(images or questions.parent)),
        **asdict(how),
    }
    done = answer_file(
        lines,
        out,
        lambda: _load(place, chosen, processor=processor),
        how,
        settings=settings,
        batch=batch,
        show=show,
    )
    if as_json:
        import json

        print(json.dumps({**asdict(done), "out": str(out)}))
    else:
        told = [f"{done.answers} answers, {done.fresh} of them new"] if done.answers else []
        if done.cut:
            told.append(f"{done.cut} cut off at the most new tokens")
        if done.errors:
            told.append(f"{done.errors} lines with an error and no answer")
        print(f"{out}: {'; '.join(told)}")
    raise typer.Exit(1 if done.errors else 0)
