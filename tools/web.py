"""Notebooks as web pages whose pictures keep their descriptions.

nbconvert's template for web pages writes every picture without the alternative text that stands in its metadata
(nbconvert issue 1993), so that somebody who does not see it gets nothing. Here each picture is handed to nbconvert as
an HTML element that has one.
"""

from __future__ import annotations

import html
import pathlib

import nbformat

from .book import ROOT, NotebookError, paths, read, write


def web(names=(), root=ROOT, out=None):
    """Write notebooks, with their stored outputs, as HTML files to the folder `out` (dist/web by default).

    Raises NotebookError for a folder that cannot be used.
    """
    out = pathlib.Path(out or root / "dist" / "web")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path in paths(root, names):
            write(out / f"{path.stem}.html", page_of(read(path)))
            print(f"{path.stem}.html: {(out / f'{path.stem}.html').stat().st_size / 1e6:.1f} MB")
    except OSError as problem:
        raise NotebookError(f"web: cannot write to {out} ({problem.strerror}): name another folder") from None


def page_of(nb):
    """The text of the web page of a notebook."""
    from nbconvert import HTMLExporter

    return HTMLExporter().from_notebook_node(with_elements(nb))[0]


def with_elements(nb):
    """A copy in which each described PNG output is an `<img alt="...">`; all other outputs stay as they are."""
    copy = nbformat.from_dict(nb)
    for cell in copy.cells:
        for output in cell.get("outputs", ()):
            about = output.get("metadata", {}).get("image/png", {})
            if about.get("alt") and "image/png" in output.get("data", {}):
                output.data = nbformat.from_dict({"text/html": _element(output.data["image/png"], about)})
    return copy


def _element(png, about):
    sizes = "".join(f' {side}="{about[side]}"' for side in ("width", "height") if side in about)
    source = "data:image/png;base64," + "".join(png).replace("\n", "")
    alt = html.escape(about["alt"], quote=True)
    return f'<img alt="{alt}"{sizes} style="max-width:100%;height:auto" src="{source}">'
