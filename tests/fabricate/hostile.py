"""Make a run hostile: every text of it is written in the language of what shows it."""

from __future__ import annotations

import json
from pathlib import Path

from harness.records.schema import HEAD, LINES

EVIL = (
    "x | <script>alert(1)</script><img src=x> `code` **bold** _it_ [l](javascript:a) ![i](http://e/i) &lt; "
    "$\\frac{$ \\input{/etc/passwd} \\immediate\\write18{touch x} % # ~ ^ {"
)
AFTER_LINE = f"Evil\n\\input{{x}}\n# h\n{EVIL}"
TRACE = f"trace:/tmp/{EVIL.replace('/', '')}.npy"


def spoil(folder: Path, text: str) -> None:
    """Put a text into every field of a run that may hold any."""
    head = json.loads((folder / HEAD).read_text(encoding="utf-8"))
    for name in ("host", "system", "processor", "microarchitecture", "virtual_machine", "commit"):
        head["machine"][name] = text
    head["machine"]["build"] = {"isa": text, "compiler": text}
    head["machine"]["findings"] = [
        {"id": "x", "severity": "serious", "found": text, "why": text, "remedy": text}
    ]
    (folder / HEAD).write_text(json.dumps(head))
    lines = [json.loads(line) for line in (folder / LINES).read_text().splitlines()]
    for line in lines:
        if line["kind"] == "provider":
            line.update(name=text, version=text, architecture=text, path=text)
        if line["kind"] == "cell":
            line.update(routing=TRACE, provider=text and line["provider"] and text)
            line["notes"] = {**line["notes"], "weights": text, "launch": text}
            if line["role"] != "ceiling" and line["implementation"].startswith("fff_l2"):
                line.update(status="wrong", reason=text)
    lines.append({"kind": "resume", "resumed_utc": text, "host": text, "process": 9, "block": 99})
    (folder / LINES).write_text("".join(json.dumps(line) + "\n" for line in lines))
