"""The parity command: what passes, what it says, where it finds peers."""

import ast
import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import parity, parity_row, scratch

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
  ("cases", "difference", "passed"),
  [
    (3, 0.1, True),
    (3, 0.2, False),
    (3, float("nan"), False),
    (3, float("inf"), False),
    (0, 0.0, False),  # Nothing was compared.
  ],
)
def test_only_near_enough_passes(cases, difference, passed):
  row = parity_row.Row("what", "peer", cases, difference, 0.1)
  assert row.passed == passed
  assert row.cells()[-1] == ("pass" if passed else "FAIL")


def test_every_comparison_exists():
  for module, function in parity.COMPARISONS.values():
    tree = ast.parse((ROOT / "benchmarks" / f"{module}.py").read_text())
    names = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
    assert function in names


def test_a_present_peer_is_not_missing(monkeypatch):
  monkeypatch.setattr(scratch, "PEERS", ("json", "no_such_package"))
  assert scratch.missing() == ["no_such_package"]
  monkeypatch.setattr(scratch, "PEERS", ("json",))
  assert scratch.interpreter() == sys.executable
  scratch.ensure_peers("benchmarks.parity")  # Returns.


def run(*flags):
  command = [sys.executable, "-m", "benchmarks.parity", *flags]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_an_unknown_comparison_is_named():
  result = run("--only=prompts,lgits")
  assert result.returncode == 2
  assert "'lgits' found, some of prepare" in result.stderr


@pytest.mark.torch
def test_table_and_json(tmp_path):
  for package in scratch.PEERS:
    pytest.importorskip(package)
  result = run("--only=prompts,samples", f"--json={tmp_path / 'rows.json'}")
  assert result.returncode == 0, result.stderr[-3000:]
  assert "3 of 3 pass" in result.stdout
  written = json.loads((tmp_path / "rows.json").read_text())
  assert [row["passed"] for row in written["rows"]] == [True] * 3
  assert written["versions"]["torch"]
