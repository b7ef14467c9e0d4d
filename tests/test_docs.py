"""Documentation is tested: what exists has its paragraph, generated parts are current, examples run."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import click
import pytest

import halfpint
from halfpint import errors, families, formats
from halfpint.checkpoints import CONTAINERS
from halfpint.cli import COMMANDS, main
from halfpint.solvers import SOLVERS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FORMAT_HEADINGS = ["What it stores", "Bits per weight", "Error bound", "Who can load it", "Reference"]


def load_generator():
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


generator = load_generator()


def text_of(name):
    return (DOCS / name).read_text(encoding="utf-8")


def page_ids(path):
    return str(path.relative_to(DOCS))


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_generated_parts_are_current(page):
    written = page.read_text(encoding="utf-8")
    assert written == generator.render(written), "run: make docs"


@pytest.mark.parametrize("count", [1, 3])
def test_generated_parts_are_the_same_on_any_number_of_threads(count, threads):
    threads(count)
    page = DOCS / "getting-started.md"
    assert page.read_text(encoding="utf-8") == generator.render(page.read_text(encoding="utf-8"))


def test_generated_parts_are_marked_so_that_they_are_found():
    for page in PAGES:
        written = page.read_text(encoding="utf-8")
        assert (
            written.count("<!-- generated:") == len(generator._PART.findall(written)) == written.count("<!-- end -->")
        )


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose):
        assert target.startswith("https://") or (page.parent / target).is_file(), target


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_every_page_can_be_reached_from_the_index(page):
    reached, waiting = set(), [DOCS / "index.md"]
    while waiting:
        here = waiting.pop()
        if here in reached:
            continue
        reached.add(here)
        links = re.findall(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)", here.read_text(encoding="utf-8"))
        waiting += [(here.parent / link).resolve() for link in links]
    assert page in reached


@pytest.mark.parametrize("name", sorted({generator.page_of(fmt) for fmt in formats.FORMATS.values()}))
def test_every_format_has_its_page_with_five_headings(name):
    assert re.findall(r"^## (.+)$", text_of(f"formats/{name}.md"), flags=re.MULTILINE) == FORMAT_HEADINGS


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_has_its_page(name):
    page = text_of(f"containers/{name}.md")
    assert page.startswith(f"# {name}\n")
    assert "## What it holds" in page
    assert f"[{name}]({name}.md)" in text_of("containers/index.md")


@pytest.mark.parametrize("name", families.FAMILIES)
def test_every_family_is_listed(name):
    assert f"| `{name}` |" in text_of("families.md")


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_has_its_paragraph(name):
    assert f"\n## {name}\n" in text_of("solvers.md")


ERRORS = [
    thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, errors.HalfpintError)
]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_has_its_paragraph_and_exit_code(kind):
    sections = re.split(r"^## ", text_of("errors.md"), flags=re.MULTILINE)
    mine = [section for section in sections if section.startswith(f"{kind.__name__}\n")]
    assert len(mine) == 1
    assert f"xit code {kind.exit_code}" in mine[0].replace("\n", " ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_every_command_is_documented(name):
    section = text_of("commands.md").split(f"\n## {name}\n")[1].split("\n## ")[0]
    command = main.get_command(click.Context(main), name)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.opts[0] in section


def test_every_public_name_is_told_of():
    told = text_of("python-api.md") + text_of("errors.md")
    for name in halfpint.__all__:
        assert name == "__version__" or re.search(rf"\b{name}\b", told), name
        assert getattr(halfpint, name) is not None
    assert set(halfpint.__all__) <= set(dir(halfpint))


def command_lines():
    """Every `halfpint ...` line of an indented or fenced block, with the page that has it."""
    for page in PAGES:
        prose = re.sub(r"<!-- generated:.*?<!-- end -->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for line in re.findall(r"^(?:    |\$ )(halfpint .+)$", prose, flags=re.MULTILINE):
            yield pytest.param(line, id=f"{page_ids(page)}: {line}")


@pytest.mark.parametrize("line", list(command_lines()))
def test_commands_in_the_pages_parse(line):
    name, *arguments = shlex.split(line, comments=True)[1:]
    command = main.get_command(click.Context(main), name)
    command.make_context(name, arguments, resilient_parsing=False)


def test_the_python_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", text_of("python-api.md"), flags=re.DOTALL)
    assert len(blocks) > 5
    names = {}
    for block in blocks:
        exec(compile(block, "python-api.md", "exec"), names)
