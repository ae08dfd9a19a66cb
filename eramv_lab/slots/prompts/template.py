"""The prompt slot as a chat template: the processor's words for tools that know Jinja alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from eramv_lab.slots.prompts.pieces import Frame, Frames

BODY = """\
{%- set ns = namespace(text='', here=0, images=0) -%}
{%- for message in messages -%}
  {%- set ns.text = '' -%}
  {%- set ns.here = 0 -%}
  {%- if message['content'] is string -%}
    {%- set ns.text = message['content'] -%}
  {%- else -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] == 'image' -%}
        {%- set ns.here = ns.here + 1 -%}
      {%- elif part['type'] == 'text' -%}
        {%- set ns.text = ns.text + (' ' if ns.text else '') + part['text'] -%}
      {%- else -%}
        {{- raise_exception('this model reads text and images, found ' + part['type']) -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {%- set ns.text = ns.text | trim -%}
  {%- for mark in marks -%}
    {%- set ns.text = ns.text | replace(mark[0], mark[1]) -%}
  {%- endfor -%}
  {%- if message['role'] != ('assistant' if loop.index0 % 2 else 'user') -%}
    {{- raise_exception('this model takes turns of user and assistant alone, user first') -}}
  {%- elif ns.here and not loop.first -%}
    {{- raise_exception('the images of this model stand in the first message') -}}
  {%- endif -%}
  {%- set asked = message['role'] == 'user' -%}
  {%- if loop.first -%}
    {%- set ns.images = ns.here -%}
  {%- endif -%}
  {%- if asked and caption and ns.images -%}
    {%- set ns.text = '' -%}
  {%- endif -%}
  {%- set near_end = loop.last or (asked and loop.revindex0 == 1) -%}
  {%- if loop.index0 < 2 -%}
    {%- set frame = only if near_end else first -%}
  {%- else -%}
    {%- set frame = last if near_end else middle -%}
  {%- endif -%}
  {%- set between = '' if caption and ns.images else frame['between'] -%}
  {%- set shown = (['<image>'] * ns.here) | join(' ') -%}
  {%- if asked -%}
    {{- frame['before'] -}}
    {%- if image_first -%}
      {{- shown + (joiner if shown and ns.text else '') + ns.text -}}
    {%- else -%}
      {{- ns.text + (joiner if shown and ns.text else '') + shown -}}
    {%- endif -%}
    {%- if loop.last and add_generation_prompt -%}
      {{- between -}}
    {%- endif -%}
  {%- else -%}
    {{- between + ('' if caption and ns.images else frame['lead']) + ns.text + frame['end'] -}}
  {%- endif -%}
{%- endfor -%}
"""


def as_template(prompt: Any, chat: Frames, special: Sequence[str], eos: str) -> str | None:
    """The Jinja template of a prompt config, for `apply_chat_template`.

    Messages take turns, the user's first; images stand in the first one, wherever its text is.
    Args: `chat` gives the frames of the tokenizer's own template; `special` are the texts that
    it takes for special tokens, `eos` its end mark. None for a chat whose frames depend on how
    many turns there are, which no template of ours can say.
    Raises UserError for a chat whose tokenizer has no template.
    """
    one, two, three, four = (list(prompt.frames(turns, 0, chat)) for turns in (1, 2, 3, 4))
    first, middle, last = two[0], three[1], two[1]
    if three != [first, middle, last] or four != [first, middle, middle, last]:
        return None
    data = {
        "image_first": prompt.image_first,
        "caption": prompt.template == "caption",
        "joiner": prompt.joiner,
        "only": _plain(one[0], eos),
        "first": _plain(first, eos),
        "middle": _plain(middle, eos),
        "last": _plain(last, eos),
        "marks": [[text, f"{text[0]} {text[1:]}"] for text in special if len(text) > 1],
    }
    head = (f"{{%- set {k} = {json.dumps(v, ensure_ascii=False)} -%}}\n" for k, v in data.items())
    return "".join(head) + BODY.rstrip("\n")


def _plain(frame: Frame, eos: str) -> dict[str, str]:
    end = frame.end + (eos if frame.eos else "")
    return {"before": frame.before, "between": frame.between, "lead": frame.lead, "end": end}
