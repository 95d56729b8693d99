"""The guide to the series: each rule for its links, glossary and references red on a bad project, green on a good one."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import tools

GUIDE = """# Guide

[Chapter 01](01_gan.ipynb), [its game](01_gan.ipynb#1-·-The-game), [the terms](#glossary), [the front page](../README.md#top).

## Glossary

| English term | Chinese term | meaning | taught in |
|---|---|---|---|
| Évidence lower bound | 证据下界 | a bound | [02, eq. (3), (3b)](02_vae.ipynb) |
| exact | 精确 | no guess | [02](02_vae.ipynb) |
| generator | 生成器 | draws | [01, section 1](01_gan.ipynb) |
| logit | 对数几率 | a number | [01, symbols](01_gan.ipynb); [02](02_vae.ipynb) |
| score | 分数, 得分 | an arrow | [02](02_vae.ipynb) |

Between the tables.

## References

| authors | year | title | arXiv | chapters |
|---|---|---|---|---|
| Goodfellow | 2014 | Generative adversarial networks | [1406.2661](https://arxiv.org/abs/1406.2661) | 01, 02 |
| Ho | 2022 | Video | – | 02 |
| Ho & Salimans | 2022 | Guidance | [2207.12598](https://arxiv.org/abs/2207.12598) | 01 |
| Huang | 2025 | One | [2501.05441](https://arxiv.org/abs/2501.05441) | 01 |
| Huang | 2025 | Two | [2501.16975](https://arxiv.org/abs/2501.16975) | 02 |
| Oord | 1999 | A Book without a Year | – | 02 |
"""
GAN = [
    new_markdown_cell(
        "# 01\n\nA *generator* (生成器, G) of Goodfellow et al. (2014, arXiv 1406.2661v3); type `ok (你好)`."
    ),
    new_markdown_cell(
        "## Symbols\n\n**Logits**.\n\n```python\n## no heading\n```\n\n[There](02_vae.ipynb#The-bound-L)"
    ),
    new_markdown_cell("## 1 · The game\n\n$$V \\tag{1}$$\n\nSee Huang 2025, arXiv 2501.05441, and [above](#Symbols)."),
    new_code_cell("# Ho & Salimans 2022, https://arxiv.org/abs/2207.12598"),
]
VAE = [
    new_markdown_cell("# 02\n\nThe *évidence* lower\nbound: $$L \\tag{3}$$ $$L \\tag{3b}$$ One exact logit; 得分."),
    new_markdown_cell(
        "## The *bound* `L`\n\nHo 2019, 2022; Goodfellow 2014; *A Book without a Year*; Huang 2025, arXiv:2501.16975."
    ),
]


def save(project, name, cells):
    nbformat.write(new_notebook(cells=cells), project / "notebooks" / name)


def changed(project, file, old, new):
    path = project / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def findings(project):
    """What lint says about the guide, and about links anywhere."""
    return [line for line in tools.lint(project) if line.startswith("notebooks/README.md") or "the link " in line]


@pytest.fixture
def project(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "README.md").write_text("# Front page, *in* `short`!\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[tool.aigc]\nrepository = "OWNER/REPO"\nref = "main"\n', encoding="utf-8")
    (tmp_path / "notebooks" / "README.md").write_text(GUIDE, encoding="utf-8")
    save(tmp_path, "01_gan.ipynb", GAN)
    save(tmp_path, "02_vae.ipynb", VAE)
    return tmp_path


def test_a_good_guide_passes(project):
    changed(
        project, "notebooks/01_gan.ipynb", "[above](#Symbols)", "[up](#Symbols) [out](../README.md#front-page-in-short)"
    )
    assert findings(project) == []


def test_a_project_without_a_guide_has_nothing_to_check(project):
    (project / "notebooks" / "README.md").unlink()
    changed(project, "notebooks/01_gan.ipynb", "1406.2661v3", "1406.0000")
    assert findings(project) == []


# ---------------------------------------------------------------- links


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("[Chapter 01](01_gan.ipynb)", "[Chapter 01](01_gam.ipynb)", "01_gam.ipynb leads to no file"),
        ("#1-·-The-game", "#1-·-the-game", "leads to no heading of 01_gan.ipynb"),
        ("(#glossary)", "(#Glossary)", "leads to no heading of README.md"),
        ("../README.md#top", "../README.md#front", "leads to no heading of README.md"),
    ],
)
def test_a_link_of_the_guide_leads_somewhere(project, old, new, finding):
    changed(project, "notebooks/README.md", old, new)
    [line] = findings(project)
    assert line.startswith("notebooks/README.md: ") and finding in line


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("[There](02_vae.ipynb", "[There](05_vae.ipynb", "leads to no file"),
        ("#The-bound-L", "#The-Bound-L", "leads to no heading of 02_vae.ipynb"),
        ("(#Symbols)", "(#symbols)", "leads to no heading of 01_gan.ipynb"),
        ("(#Symbols)", "(#no-heading)", "leads to no heading of 01_gan.ipynb"),
    ],
)
def test_a_link_between_chapters_leads_to_a_heading(project, old, new, finding):
    changed(project, "notebooks/01_gan.ipynb", old, new)
    [line] = findings(project)
    assert line.startswith("01_gan.ipynb, cell ") and finding in line


# ---------------------------------------------------------------- the glossary


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("## Glossary", "## Terms", "has no table below the heading 'Glossary'"),
        ("| draws |", "| |", "('generator'): is not a row of 4 filled cells"),
        ("| draws |", "| draws | well |", "('generator'): is not a row of 4 filled cells"),
        ("| 对数几率 |", "| logit |", "('logit'): has no Chinese term"),
        ("[01, section 1](01_gan.ipynb)", "01, section 1", "('generator'): '01, section 1' is no place"),
        ("[01, section 1](01_gan.ipynb)", ";", "('generator'): ';' is no place"),
        ("; [02](02_vae.ipynb)", ", 02", "('logit'): '[01, symbols](01_gan.ipynb), 02' is no place"),
        ("[01, section 1](01_gan.ipynb)", "[01](README.md)", "('generator'): README.md is no notebook of the series"),
        ("[01, section 1](01_gan.ipynb)", "[02, section 1](01_gan.ipynb)", "says 02 and leads to 01_gan.ipynb"),
        ("| generator | 生成器 |", "| generation | 生成器件 |", "01_gan.ipynb uses neither"),
        ("| score |", "| logi | 几率 | x | [02](02_vae.ipynb) |\n| score |", "02_vae.ipynb uses neither"),
        ("| score |", "| ogit | 几率 | x | [02](02_vae.ipynb) |\n| score |", "02_vae.ipynb uses neither"),
        ("eq. (3), (3b)", "eq. (3), (4)", "02_vae.ipynb has no equation (4)"),
        ("eq. (3), (3b)", "eq. (b)", "02_vae.ipynb has no equation (b)"),
        ("01, section 1", "01, section 2", "no heading that begins with '2 ·'"),
        ("01, symbols", "01, play first", "no heading that begins with 'play first'"),
        ("| logit |", "| Game | 生成器 | x | [01](01_gan.ipynb) |\n| logit |", "('Game'): comes after 'generator'"),
        ("| logit |", "| Generator | 生成器 | x | [01](01_gan.ipynb) |\n| logit |", "('Generator'): stands twice"),
    ],
)
def test_a_bad_row_of_the_glossary_is_named(project, old, new, finding):
    changed(project, "notebooks/README.md", old, new)
    lines = findings(project)
    assert any(line.startswith("notebooks/README.md") and finding in line for line in lines), lines


def test_a_finding_names_the_line(project):
    changed(project, "notebooks/README.md", "01, section 1", "01, section 2")
    number = 1 + next(k for k, line in enumerate(GUIDE.splitlines()) if line.startswith("| generator"))
    assert findings(project)[0].startswith(f"notebooks/README.md, line {number} ('generator'): ")


@pytest.mark.parametrize("given", ["*fake* (假样本)", "*fake* (sham, 假样本; Su 2022)", "*fake* (GAN 假样本, F)"])
def test_a_chinese_term_of_a_chapter_stands_in_the_glossary(project, given):
    save(project, "01_gan.ipynb", [*GAN, new_markdown_cell(given)])
    [line] = findings(project)
    assert "假样本, the Chinese term that 01_gan.ipynb gives" in line
    changed(project, "notebooks/README.md", "| 生成器 |", "| 生成器, GAN 假样本 |")
    assert findings(project) == []


def test_the_chinese_term_alone_will_do(project):
    changed(project, "notebooks/README.md", "| score | 分数, 得分 |", "| scoring | 分数, 得分 |")
    assert findings(project) == []
    changed(project, "notebooks/README.md", "| scoring | 分数, 得分 |", "| scoring | 分数 |")
    assert len(findings(project)) == 1


# ---------------------------------------------------------------- the references


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("## References", "## Works", "has no table below the heading 'References'"),
        ("| Video | – |", "| Video | |", "('Ho'): is not a row of 5 filled cells"),
        ("| Video | – |", "| Video | 2022.0 |", "('Ho'): '2022.0' is no link to arXiv"),
        ("abs/1406.2661", "abs/1406.2662", "('Goodfellow'): '[1406.2661](https://arxiv.org/abs/1406.2662)' is no link"),
        (
            "| – | 02 |\n| Ho &",
            "| [2204.03458](https://arxiv.org/abs/2204.03458) | 02 |\n| Ho &",
            "no notebook cites arXiv 2204.03458",
        ),
        ("1406.2661", "1406.2662", "no row has arXiv 1406.2661, which 01_gan.ipynb cites"),
        ("| 01, 02 |", "| 01 |", "('Goodfellow'): cited in 01, 02, not in 01"),
        ("| 01, 02 |", "| 02, 01 |", "('Goodfellow'): cited in 01, 02, not in 02, 01"),
        ("| Video | – | 02 |", "| Video | – | 01, 02 |", "('Ho'): cited in 02, not in 01, 02"),
        ("| Ho | 2022 |", "| Ho | 2021 |", "('Ho'): cited in no chapter, not in 02"),
        ("2501.05441) | 01 |", "2501.05441) | 01, 02 |", "('Huang'): cited in 01, not in 01, 02"),
        ("A Book without a Year", "A Book", "('Oord'): cited in 02, not in 01"),
        (
            "Year | – | 02 |",
            "Year | – | 02 |\n| Salimans | 2022 | Another | – | 01 |",
            "('Salimans'): cited in no chapter",
        ),
        ("| Oord |", "| Aord |", "('Aord'): comes after 'Huang'"),
        ("2025 | Two |", "2025 | One |", "('Huang'): stands twice"),
        ("2501.16975", "2501.05441", "('Huang'): arXiv 2501.05441 stands twice"),
    ],
)
def test_a_bad_row_of_the_references_is_named(project, old, new, finding):
    changed(project, "notebooks/README.md", old, new)
    if finding.startswith("('Oord')"):
        changed(project, "notebooks/README.md", "A Book | – | 02", "A Book | – | 01")
    lines = findings(project)
    assert any(line.startswith("notebooks/README.md") and finding in line for line in lines), lines


@pytest.mark.parametrize(
    "cell", [new_markdown_cell("Ho 2020, arXiv 2006.11239."), new_code_cell("# arXiv:2006.11239v2")]
)
def test_a_number_that_a_chapter_cites_stands_in_the_references(project, cell):
    save(project, "02_vae.ipynb", [*VAE, cell])
    [line] = findings(project)
    assert "no row has arXiv 2006.11239, which 02_vae.ipynb cites" in line


def test_a_work_that_a_chapter_no_longer_cites_is_named(project):
    save(project, "01_gan.ipynb", GAN[:3])
    assert [line.split(": ", 1)[1] for line in findings(project)] == [
        "no notebook cites arXiv 2207.12598: take the number from a notebook",
        "cited in no chapter, not in 01: mend its chapters",
    ]
