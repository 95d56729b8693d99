"""Notebooks as web pages: each picture has its description."""

import html
import re

import pytest

from tools import paths, read
from tools.web import page_of, web

PATHS = paths()


def descriptions(nb):
    outputs = [output for cell in nb.cells for output in cell.get("outputs", ())]
    return [o.metadata["image/png"]["alt"] for o in outputs if "image/png" in o.get("data", {})]


@pytest.mark.parametrize("path", PATHS[:1], ids=[path.stem for path in PATHS[:1]])
def test_every_picture_of_a_page_keeps_its_description(path):
    nb = read(path)
    page = page_of(nb)
    shown = [html.unescape(alt) for alt in re.findall(r'<img alt="([^"]*)"[^>]*src="data:image/png', page)]
    assert shown == descriptions(nb) and len(shown) >= 3
    assert "No description has been provided" not in page


def test_a_page_is_written_where_it_is_wanted(tmp_path, capsys):
    web([PATHS[0].stem], out=tmp_path / "pages")
    assert [file.name for file in (tmp_path / "pages").iterdir()] == [f"{PATHS[0].stem}.html"]
    assert f"{PATHS[0].stem}.html: " in capsys.readouterr().out


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    from tools import NotebookError

    (tmp_path / "file").write_text("")
    with pytest.raises(NotebookError, match="web: cannot write to"):
        web([PATHS[0].stem], out=tmp_path / "file")
