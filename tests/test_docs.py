"""What the documents point at is there."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = [
  ROOT / "README.md",
  ROOT / "CONTRIBUTING.md",
  *sorted((ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_named_files_and_tests_exist(path):
  text = path.read_text()
  pattern = r"\b((?:tests|bigrec_jax|benchmarks|configs|launch)/[\w/.-]+\.\w+)"
  missing = [
    name
    for name in re.findall(pattern, text)
    if not (ROOT / name).exists() and name != "configs/mine.py"
  ]
  assert missing == []
  for name, test in re.findall(r"(tests/[\w/]+\.py)::(?:\w+::)?(\w+)", text):
    assert f"def {test}(" in (ROOT / name).read_text(), f"{name}::{test}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_between_documents_lead_somewhere(path):
  for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
    if not target.startswith("http"):
      assert (path.parent / target).exists(), target


def test_nothing_cites_a_document_that_is_not_here():
  cited = re.compile(r"\bSPECS\b|\b(DESIGN|PEERS|ANCHORS)\.md")
  places = [*DOCUMENTS]
  for folder in ("bigrec_jax", "configs", "benchmarks", "launch"):
    places += [
      p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".sh")
    ]
  assert [p.name for p in places if cited.search(p.read_text())] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_prose_wraps_at_a_hundred_columns(path):
  fenced, wide = False, []
  for number, line in enumerate(path.read_text().splitlines(), 1):
    if line.lstrip().startswith("```"):
      fenced = not fenced
    elif not fenced and not line.startswith("|") and len(line) > 100:
      wide.append(number)
  assert wide == []
