"""The face is a door, not a room: few statements, no logic, nothing foreign."""

import ast
from pathlib import Path

import pytest

COMPONENTS = Path(__file__).resolve().parents[2] / "components" / "retain"
FACES = sorted(COMPONENTS.glob("*/component.py"))
STEPS = {
    "resolve",
    "pair",
    "renew",
    "divide",
    "take",
    "combine",
    "route",
    "validate",
    "rehearse",
    "template",
    "mix",
    "train",
    "merge",
    "compress",
    "score",
    "judge",
    "gate",
    "publish",
    "repair",
    "stop",
    "close",
}
LOGIC = (ast.If, ast.For, ast.While, ast.Try, ast.With, ast.Lambda, ast.FunctionDef)


def test_every_step_has_one_face() -> None:
    assert {face.parent.name for face in FACES} == STEPS


@pytest.mark.parametrize("face", FACES, ids=lambda p: p.parent.name)
def test_a_face_is_a_door(face: Path) -> None:
    tree = ast.parse(face.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert [f.name for f in functions] == [face.parent.name]
    body = functions[0].body
    assert isinstance(body[0], ast.Expr), "a docstring: it becomes the description in the UI"
    assert len(body) - 1 <= 6
    assert not [node for statement in body[1:] for node in ast.walk(statement) if isinstance(node, LOGIC)]
    outside = [node.module for node in ast.walk(functions[0]) if isinstance(node, ast.ImportFrom)]
    assert outside == [f"retain.{face.parent.name}.door"]


def test_work_never_imports_kfp() -> None:
    rooms = [path for path in COMPONENTS.rglob("*.py") if path.name not in {"component.py", "faces.py"}]
    assert len(rooms) > 40
    for path in rooms:
        names = {
            alias.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        names |= {
            node.module or ""
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom)
        }
        assert not [name for name in names if name.split(".")[0] in {"kfp", "retain_pipelines"}], path
