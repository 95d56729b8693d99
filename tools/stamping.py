"""Where the project is published: said once, in pyproject.toml, and written into badges and install cells."""

from __future__ import annotations

import re
import tomllib

from .book import ROOT, NotebookError, paths, write

BADGE_IMAGE = "https://colab.research.google.com/assets/colab-badge.svg"


def published(root=ROOT):
    """(OWNER/REPO, ref) from the table [tool.aigc] of pyproject.toml. Raises NotebookError if it is not there."""
    try:
        table = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["aigc"]
        return table["repository"], table["ref"]
    except (FileNotFoundError, KeyError):
        message = 'pyproject.toml needs [tool.aigc] with repository = "OWNER/REPO" and ref = "main"'
        raise NotebookError(message) from None


def colab_address(name, repository, ref):
    """Where Colab opens the published notebook file `name`."""
    return f"https://colab.research.google.com/github/{repository}/blob/{ref}/notebooks/{name}"


def badge(path, repository, ref):
    """The "Open in Colab" badge of a notebook, as HTML."""
    url = colab_address(path.name, repository, ref)
    return f'<a href="{url}" target="_parent"><img src="{BADGE_IMAGE}" alt="Open In Colab"/></a>'


def stamp(target, root=ROOT):
    """Write OWNER/REPO[@REF] into pyproject.toml, the README, and every badge and install cell.

    Without @REF the ref stays. Raises NotebookError if the target is of another form.
    """
    name = r"[A-Za-z0-9][\w.-]*"
    if not re.fullmatch(rf"{name}/{name}(@{name}(/{name})*)?", target):
        raise NotebookError(f"stamp: expected OWNER/REPO or OWNER/REPO@REF, got {target!r}")
    repository, _, ref = target.partition("@")
    old = published(root)
    new = repository, ref or old[1]
    files = [path for path in (*paths(root), root / "README.md") if path.exists()]
    texts = {path: _renewed(path.read_text(encoding="utf-8"), old, new) for path in files}
    project = root / "pyproject.toml"
    texts[project] = _renewed_project(project.read_text(encoding="utf-8"), new)
    for path, text in texts.items():
        write(path, text)


def _renewed(text, old, new):
    """The text with all GitHub and Colab addresses of the old place turned into the new one's."""
    end = r"(?![\w-]|\.(?!git\b)\w)"  # the name ends here; ".git" may follow
    (repository, ref), (was, was_at) = new, map(re.escape, old)
    text = re.sub(rf"(/github/){was}/blob/{was_at}/", rf"\g<1>{repository}/blob/{ref}/", text)
    text = re.sub(rf"(github\.com/){was}(\.git)?@{was_at}(?![\w./-])", rf"\g<1>{repository}\g<2>@{ref}", text)
    return re.sub(rf"(github\.com/){was}{end}", rf"\g<1>{repository}", text)


def _renewed_project(text, new):
    head, table, rest = text.partition("[tool.aigc]\n")
    table += re.sub(r"(?m)^repository = .*$", f'repository = "{new[0]}"', rest, count=1)
    return head + re.sub(r"(?m)^ref = .*$", f'ref = "{new[1]}"', table, count=1)
