"""The page of a search: one file with its data in it, for any browser, without a network."""

from __future__ import annotations

import json
from pathlib import Path

from eramv_lab.report.numbers import MEASURES, heading, name_of
from eramv_lab.report.search import Search, said
from eramv_lab.report.search_plain import to_plain
from eramv_lab.report.search_words import SHARES
from eramv_lab.report.shape import is_number

TEMPLATE = Path(__file__).with_name("search_page.html")
MARK = "__DATA__"
COLUMNS = (
    *("accuracy", "loss", "prefill_tflops", "train_pflops", "parameters", "visual_tokens"),
    *("fine_tokens", "kv_mib", "latency_ms", "peak_mib", "seconds"),
)


def html(search: Search) -> str:
    """The page. The data cannot end its script element, whatever a name holds."""
    data = to_plain(search)
    for plain, trial in zip(data["trials"], search.trials, strict=True):
        plain["params"] = {key: said(value) for key, value in trial.params.items()}
        plain["sort"] = {
            key: value
            for key, value in trial.params.items()
            if is_number(value) and abs(value) < 1e300
        }
    wanted = [goal["metric"] for goal in data["axes"].values()]
    data["metrics"] = {
        metric: _measure(metric, [search.value(trial, metric) for trial in search.trials])
        for metric in dict.fromkeys([*wanted, *COLUMNS])
    }
    text = json.dumps(data, allow_nan=False)
    for sign in "<>&":  # neither `</script>` nor `<!--` can come up in it
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return TEMPLATE.read_text(encoding="utf-8").replace(MARK, text, 1)


def _measure(metric: str, values: list[float | None]) -> dict[str, object]:
    """How the page writes a metric: its heading, and what a value is multiplied by."""
    head, times = heading(metric, values)
    return {
        "head": head,
        "unit": head.removeprefix(name_of(metric)).strip(),
        "times": times if metric in MEASURES else 1,
        "share": metric in SHARES,
        "known": any(value is not None for value in values),
    }
