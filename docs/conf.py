"""Own how the pages of this folder become a site: `python -m sphinx -W docs site`."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx import addnodes
from sphinx.highlighting import lexers

project = "fff-harness"
author = "The fff-harness authors"
project_copyright = author
release = metadata.version("fff-harness")

extensions = ["myst_parser"]
# Pages link to each other's sections by the headings, as they do where a repository shows them.
myst_heading_anchors = 4
# A drawing in this notation stands as it is written where nothing draws it: the site loads no script.
lexers["mermaid"] = TextLexer()

html_theme = "furo"
html_title = f"fff-harness {release}"
html_copy_source = False

ROOT = Path(__file__).resolve().parent.parent


def name_files_of_the_sources(app: Any, doctree: nodes.document) -> None:
    """Put the names of files in the place of links to those beside this folder: they are no part of the site.

    What leads to no file is left, and an error of the build.
    """
    for link in list(doctree.findall(addnodes.pending_xref)):
        target, name = str(link.get("reftarget", "")), app.env.docname
        here = Path(app.env.doc2path(name)).parent
        for path in (here / target, here / f"{target}.md", ROOT / target, Path(f"{target}.md")):
            found = path.resolve()
            outside = found.is_relative_to(ROOT) and not found.is_relative_to(ROOT / "docs")
            if outside and found.exists():
                link.replace_self(
                    nodes.inline("", "", *(part.deepcopy() for part in link.children))
                )
                break


def setup(app: Any) -> None:
    """Let links to files of the sources stand as their names."""
    app.connect("doctree-read", name_files_of_the_sources)
