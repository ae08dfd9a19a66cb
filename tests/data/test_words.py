"""Words: one string read once, prompts that training began with, no token out of a user's text."""

import itertools
import pickle
from pathlib import Path
from typing import Any

import hub
import pytest
from laws.probes import spec_of
from laws.settings import TINY, with_keys

from eramv_lab.data.collate import IGNORED, Collator
from eramv_lab.data.shards import Asked
from eramv_lab.data.words import TokenizerWords, WorldWords, words_of
from eramv_lab.errors import UserError
from eramv_lab.slots.prompts.orders import VICUNA, ImageFirstConfig, QuestionFirstConfig

ROWS = 3
TALK = [
    Asked("a-0", "what is the color of the cat?", "it is red.", "llava"),
    Asked("a-1", " and  the dog?\n", "\nblue\nand red ", "llava", follows=True),
    Asked("a-2", "why", "(so)", "llava", follows=True),
]
ORDERS = {"image_first": ImageFirstConfig, "question_first": QuestionFirstConfig}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each family of language models."""
    root = tmp_path_factory.mktemp("hub")
    return {name: make(root / name) for name, make in hub.LANGUAGES.items()}


def spec_for(path: Path, template: str = "chat", order: str = "image_first") -> Any:
    language = {"type": "hf", "path": str(path)}
    prompt = {"type": order, "template": template}
    return spec_of(with_keys(TINY, language=language, prompt=prompt, band="none"))


def collator_for(path: Path, template: str = "chat", order: str = "image_first") -> Collator:
    spec = spec_for(path, template, order)
    return Collator(spec.prompt, ROWS, words=words_of(spec))


def told(collator: Collator, ids: Any) -> str:
    """The text of ids, special tokens as they are written."""
    words: Any = collator.words
    return words.tokenizer.decode(ids, skip_special_tokens=False)


def learnt(collator: Collator, batch: Any, row: int = 0) -> list[str]:
    """The text of each run of labels of a row."""
    return [told(collator, run) for run in runs_of(batch["labels"][row].tolist())]


def runs_of(labels: list[int]) -> list[list[int]]:
    """Stretches of labels that are learnt."""
    runs = itertools.groupby(labels, lambda label: label != IGNORED)
    return [list(run) for kept, run in runs if kept]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("template", ["plain", "caption", "vicuna", "chat"])
@pytest.mark.parametrize("family", hub.LANGUAGES)
def test_a_prompt_is_what_training_began_with(family: str, template: str, order: str, folders: Any):
    collator = collator_for(folders[family], template, order)
    for pictured in (True, False):
        for turns in (TALK[:1], TALK[:2], TALK):
            batch = collator([turns], [pictured])
            prompts = collator.prompts([turns], [pictured])
            last = prompts["input_ids"][-1][prompts["attention_mask"][-1].bool()]
            ids, labels = batch["input_ids"][0], batch["labels"][0]
            assert ids[: len(last)].equal(last)
            assert labels[len(last)] == ids[len(last)]
            assert labels[len(last) - 1] == IGNORED or template == "caption"
            assert ids.tolist().count(collator.words.image) == ROWS * pictured
            assert collator.words.image not in labels
            assert ids[-1] in collator.words.stops and labels[-1] == ids[-1]
            answer = collator.answer_ids(turns, pictured)
            assert collator.words.text(answer) == turns[-1].answer.strip()
            assert ids.tolist()[len(last) : len(last) + len(answer)] == answer
            front = list(collator.words.front)
            assert ids.tolist()[: len(front)] == front and ids.tolist()[1:].count(1) < len(turns)
        if family != "qwen3" or template != "chat":  # which drops the thoughts of earlier turns
            for number, asked in enumerate(prompts["asked"]):
                row = prompts["input_ids"][number][prompts["attention_mask"][number].bool()]
                assert asked == TALK[number] and ids[: len(row)].equal(row)


@pytest.mark.parametrize(
    ("family", "template", "expected", "kept"),
    [
        (
            "llama",
            "vicuna",
            f"<s> {VICUNA} USER: <image><image><image>\nwhat is the color of the cat? ASSISTANT: "
            "it is red.</s>USER: and  the dog? ASSISTANT: blue\nand red</s>",
            ["it is red.</s>", "blue\nand red</s>"],
        ),
        (
            "llama",
            "caption",
            "<s><image><image><image>it is red.\n</s>blue\nand red\n</s>",
            ["it is red.\n</s>blue\nand red\n</s>"],
        ),
        (
            "llama",
            "chat",
            "<s>[INST] <image><image><image>\nwhat is the color of the cat? [/INST] it is red. "
            "</s><s>[INST] and  the dog? [/INST] blue\nand red </s>",
            ["it is red. </s>", "blue\nand red </s>"],
        ),
        (
            "mistral",
            "chat",
            "<s>[INST] <image><image><image>\nwhat is the color of the cat? [/INST]it is red."
            "</s>[INST] and  the dog? [/INST]blue\nand red</s>",
            ["it is red.</s>", "blue\nand red</s>"],
        ),
        (
            "qwen2",
            "chat",
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
            "<|image_pad|><|image_pad|><|image_pad|>\nwhat is the color of the cat?<|im_end|>\n"
            "<|im_start|>assistant\nit is red.<|im_end|>\n<|im_start|>user\nand  the dog?"
            "<|im_end|>\n<|im_start|>assistant\nblue\nand red<|im_end|>",
            ["it is red.<|im_end|>", "blue\nand red<|im_end|>"],
        ),
        (
            "qwen3",
            "chat",
            "<|im_start|>user\n<|image_pad|><|image_pad|><|image_pad|>\nwhat is the color of the "
            "cat?<|im_end|>\n<|im_start|>assistant\nit is red.<|im_end|>\n<|im_start|>user\n"
            "and  the dog?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nblue\nand red"
            "<|im_end|>",
            ["it is red.<|im_end|>", "blue\nand red<|im_end|>"],
        ),
        (
            "qwen2",
            "plain",
            "<|image_pad|><|image_pad|><|image_pad|> what is the color of the cat? answer it is "
            "red.<|endoftext|> and  the dog? answer blue\nand red<|endoftext|>",
            [" it is red.<|endoftext|>", " blue\nand red<|endoftext|>"],
        ),
    ],
)
def test_what_is_written_and_what_is_learnt(
    family: str, template: str, expected: str, kept: list[str], folders: Any
):
    collator = collator_for(folders[family], template)
    batch = collator([TALK[:2]])
    assert told(collator, batch["input_ids"][0]) == expected
    assert learnt(collator, batch) == kept


@pytest.mark.parametrize("template", ["plain", "vicuna", "chat", "caption"])
@pytest.mark.parametrize("make", [hub.older_llama_tokenizer, hub.trimming_tokenizer])
def test_tokenizers_that_place_blanks_otherwise(make: Any, template: Any):
    words = TokenizerWords.of(make(), vocab=hub.VOCAB, chat=template == "chat")
    for order in ORDERS.values():
        collator = Collator(order(template=template), ROWS, words=words)
        batch, prompts = collator([TALK]), collator.prompts([TALK])
        said = [words.text(run) for run in runs_of(batch["labels"][0].tolist())]
        right = [turn.answer for turn in TALK]
        assert "".join("".join(said).split()) == "".join("".join(right).split())
        for number in range(len(TALK)):
            row = prompts["input_ids"][number][prompts["attention_mask"][number].bool()]
            assert batch["input_ids"][0][: len(row)].equal(row)


def test_a_template_without_marks_gets_the_end_mark(tmp_path: Path):
    plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}" + (
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    collator = collator_for(hub.make_qwen2(tmp_path, plain, pad=False))
    assert told(collator, collator([TALK[:2]], [False])["input_ids"][0]) == (
        "user: what is the color of the cat?\nassistant: it is red.<|endoftext|>\n"
        "user: and  the dog?\nassistant: blue\nand red<|endoftext|>"
    )
    assert collator.words.stops == (collator.words.eos,)


def test_the_image_token_is_a_known_one_or_a_new_one(folders: Any):
    qwen: Any = words_of(spec_for(folders["qwen2"]))
    assert qwen.image_text == "<|image_pad|>" and qwen.image < hub.VOCAB
    llama: Any = words_of(spec_for(folders["llama"]))
    assert llama.image_text == "<image>" and llama.image == 349
    assert llama.pad == llama.eos == 2  # the tokenizer pads with nothing
    assert qwen.stops == (qwen.eos, qwen.tokenizer.convert_tokens_to_ids("<|im_end|>"))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_text_that_looks_like_a_token_is_text(family: str, folders: Any):
    collator = collator_for(folders[family])
    bad = "<image> </s><|image_pad|> <|im_end|><s><|endoftext|>"
    turns = [Asked("a", f"cat {bad}", f"red {bad}", "llava")]
    plain = [Asked("a", "cat", "red", "llava")]
    words: Any = collator.words
    special = [words.image, *words.tokenizer.all_special_ids, *words.stops]
    for pictured in (True, False):
        count = [
            [collator([t], [pictured])["input_ids"][0].tolist().count(i) for i in special]
            for t in (turns, plain)
        ]
        assert count[0] == count[1]
        assert (collator([turns], [pictured])["labels"] != words.image).all()
    answer = words.text(collator.answer_ids(turns))
    assert answer.replace(" ", "") == f"red {bad}".replace(" ", "")


def test_no_token_reaches_over_the_start_of_an_answer(tmp_path: Path):
    template = "{% for m in messages %}{{ m.content + ('s' if m.role == 'user' else eos_token) }}"
    collator = collator_for(hub.make_qwen2(tmp_path, template + "{% endfor %}"))
    turns = [Asked("a", "thi", "tant a", "llava"), Asked("b", "thi", "tant", "llava", follows=True)]
    batch, prompts = collator([turns], [False]), collator.prompts([turns], [False])
    words: Any = collator.words
    assert "istan" in words.tokenizer.tokenize("thistant")
    assert learnt(collator, batch) == ["tant a<|endoftext|>", "tant<|endoftext|>"]
    for number in (0, 1):
        row = prompts["input_ids"][number][prompts["attention_mask"][number].bool()]
        assert batch["input_ids"][0][: len(row)].equal(row)


def test_words_can_be_pickled(folders: Any):
    for words in (words_of(spec_for(folders["qwen3"])), WorldWords()):
        collator = Collator(ImageFirstConfig(), ROWS, words=words)
        again = pickle.loads(pickle.dumps(collator))
        turns = [Asked("a", "red circle", "red", "llava")]
        assert again([turns])["input_ids"].equal(collator([turns])["input_ids"])


def test_answers_are_read_without_special_tokens(folders: Any):
    words: Any = words_of(spec_for(folders["qwen2"]))
    ids = words.tokenizer(" red cats", add_special_tokens=False)["input_ids"]
    assert words.text([words.image, *ids, hub.VOCAB - 1, words.eos]) == "red cats"
    assert words.text([]) == ""


# --- what is refused


def bare(folder: Path) -> Path:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    return folder


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path):
    spec = spec_for(bare(hub.make_llama(tmp_path, None)), "vicuna")
    with pytest.raises(UserError, match=r"has no tokenizer") as caught:
        words_of(spec)
    assert str(tmp_path) in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path):
    spec = spec_for(hub.make_llama(tmp_path), "vicuna")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="tokenizer cannot be loaded") as caught:
        words_of(spec)
    assert str(tmp_path) in str(caught.value)


def test_a_tokenizer_that_is_not_the_models_is_refused(tmp_path: Path):
    spec = spec_for(hub.make_llama(tmp_path), "vicuna")
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 384', '"vocab_size": 300'))
    from eramv_lab.slots import hub as reading

    reading.read_config.cache_clear()
    with pytest.raises(UserError, match="tokenizer has 349 words, the model 300"):
        words_of(spec)


def test_a_chat_without_a_template_is_a_problem_before_the_run(tmp_path: Path):
    folder = hub.make_llama(tmp_path, None)
    with pytest.raises(AssertionError, match=r"prompt: template chat: .* has no chat template"):
        spec_for(folder)
    with pytest.raises(UserError, match="no chat_template"):
        TokenizerWords.of(hub.llama_tokenizer(None), vocab=hub.VOCAB, chat=True)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('only with a system') }}", "cannot be used: only with a system"),
        ("{{ messages[0].content }}", "does not write each message once"),
        ("{% for m in messages %}{{ m.content + m.content }}{% endfor %}", "each message once"),
        ("{{ messages[", "cannot be used"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_clear_error(template: str, words: str):
    with pytest.raises(UserError, match=words) as caught:
        TokenizerWords.of(hub.qwen_tokenizer(template), vocab=hub.VOCAB, chat=True)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("template", ["vicuna", "chat"])
def test_the_made_worlds_words_write_no_such_template(template: str):
    spec = spec_of(with_keys(TINY, prompt={"type": "image_first", "template": template}))
    with pytest.raises(UserError, match=rf"template {template}.*language\.path"):
        words_of(spec)


def test_the_made_worlds_words_are_a_closed_list():
    assert words_of(spec_of(TINY)) == WorldWords()
    collator = Collator(ImageFirstConfig(), ROWS)
    for question in ("what is an aubergine", "the <image> above"):
        with pytest.raises(UserError, match=r"(aubergine|<).*language\.path"):
            collator([[Asked("a", question, "red", "x")]])
