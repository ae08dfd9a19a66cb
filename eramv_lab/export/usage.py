"""How a released model is used: the lines of Python on its card, which a test runs."""

from __future__ import annotations

from dataclasses import dataclass

EXAMPLE = "example.png"
"""The image that the card's question is about."""
CODE = """\
```python
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
{ours}
model = AutoModelForImageTextToText.from_pretrained("."{trusted})
processor = AutoProcessor.from_pretrained("."{trusted})
text = processor.write("{question}")
inputs = processor(images=Image.open("{image}"), text=text)
tokens = model.generate(**inputs, max_new_tokens={longest})
answer = tokens[0, inputs["input_ids"].shape[1] :]
print(processor.decode(answer, skip_special_tokens=True)){said}
```"""
OURS = "\nimport eramv_lab.model  # tells transformers of the model\n"


@dataclass(frozen=True, kw_only=True)
class Example:
    """A held-out question about example.png, and the answer that the model gave, which is right."""

    question: str
    answer: str


def usage(example: Example | None, longest: int, *, standalone: bool) -> list[str]:
    """What to have, and what to write: `longest` tokens of answer to a question about an image.

    `standalone`: the folder holds the code that runs it.
    """
    code = CODE.format(
        ours="" if standalone else OURS,
        trusted=", trust_remote_code=True" if standalone else "",
        question=example.question if example else "what is in the picture",
        image=EXAMPLE if example else "photo.jpg",
        longest=longest,
        said=f"  # {example.answer}" if example else "",
    )
    if standalone:
        needs = "`transformers`, `torch` and `pillow` (it holds the code that it needs: read it)"
    else:
        needs = "`eramv_lab`"
    return [f"In this folder, with {needs} installed:", "", code]
