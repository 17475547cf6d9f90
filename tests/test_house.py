"""The house: which room may know which, and what every room owes a user.

Imports are counted as written in the source. A circle is one of imports that run when a module is
loaded: those inside functions, and those for type checkers alone, close none.
"""

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipeline.errors import UserError

STAGES = ("data_pipeline", "pretrain", "finetune")
MAX_FLAT = 15
"""Modules that may lie side by side at the top of data_pipeline."""
FLAT = {
    **dict.fromkeys("errors quoting config paths command_line markdown".split(), "ground"),
    **dict.fromkeys(("schema", "settings", "slurm"), "ground"),
    **dict.fromkeys(("shards", "arrow"), "shards"),
    **dict.fromkeys(("extract", "doctor", "report", "summary"), "doors"),
}
"""Of the modules at the top of data_pipeline, the room that each counts to."""
ALL_ABOVE = "the rooms above"
MAY_IMPORT = {
    "ground": "",
    "files": "ground",
    "shards": "ground files",
    "table": "ground",
    "corpora": "ground files table",
    "media": "ground files",
    "faces": "ground",
    "speaker": "ground files media faces",
    "features": "ground files table",
    "runs": "ground files shards",
    "extraction": ALL_ABOVE,
    "doors": ALL_ABOVE,
    "recipes": ALL_ABOVE,
}
"""The rooms of data_pipeline from the lowest up, and what each may import beside itself."""
HUB = {"huggingface_hub", "safetensors"}
"""Of the mixin that gives from_pretrained and save_pretrained."""
CHECKS_FILES = "pretrain.checkpoint.integrity"
"""Compares a folder's files with their digests before from_pretrained reads them."""
READS_BERT = "bert_init.py"
"""Brings a BERT checkpoint into the model: reading files is its work."""
NO_USER_ERRORS = {
    "CropError",  # a face that cannot be cropped: a reject
    "DecordUnfitError",  # PyAV decodes instead
    "LostError",  # a clock that cannot be followed: decoded from the beginning
    "MediaError",  # a clip that cannot be read: a reject
    "RowError",  # a row of the table that is no clip: a reject
}
"""Errors that never reach a command: they cost a clip, or another way is taken."""


@pytest.fixture(scope="module")
def trees(root: Path) -> dict[str, ast.Module]:
    """Module to its source, of all three stages."""
    paths = [path for stage in STAGES for path in sorted((root / stage).rglob("*.py"))]
    return {module_of(path, root): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def module_of(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imports(tree: ast.Module, *, on_load: bool = False) -> Iterator[str]:
    """Every name that is imported; `on_load`: when the module is loaded."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if on_load and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if on_load and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where a name comes from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        stack += ast.iter_child_nodes(node)


def tops(tree: ast.Module) -> set[str]:
    return {name.partition(".")[0] for name in imports(tree)}


def test_imports_go_one_way(trees):
    for module, tree in trees.items():
        above = set(STAGES[STAGES.index(module.partition(".")[0]) + 1 :])
        assert not tops(tree) & above, f"{module} imports a later stage"


def test_no_circle_of_modules(trees):
    def targets(tree: ast.Module) -> set[str]:
        names = set(imports(tree, on_load=True))
        return {n if n in trees else n.rpartition(".")[0] for n in names} & trees.keys()

    left = {module: targets(tree) - {module} for module, tree in trees.items()}
    while free := {module for module, needs in left.items() if not needs & left.keys()}:
        left = {module: needs for module, needs in left.items() if module not in free}
    assert not left, f"a circle of imports is among {sorted(left)}"


def allowed(room: str) -> set[str]:
    above = list(MAY_IMPORT)[: list(MAY_IMPORT).index(room)]
    return set(above if MAY_IMPORT[room] == ALL_ABOVE else MAY_IMPORT[room].split())


def room_of(module: str) -> str:
    """`module` lies in data_pipeline; its `__init__.py` counts to the ground."""
    _, _, inside = module.partition(".")
    first = inside.partition(".")[0]
    return FLAT.get(first, first) or "ground"


def test_rooms_lie_one_upon_the_other():
    for n, room in enumerate(MAY_IMPORT):
        strays = allowed(room) - set(list(MAY_IMPORT)[:n])
        assert not strays, f"{room} may import {strays}, which do not lie below it"


def test_every_room_imports_what_it_may(trees):
    """Inside functions too."""
    ours = {module: tree for module, tree in trees.items() if module.startswith(STAGES[0])}
    seen = set()
    for module, tree in ours.items():
        room = room_of(module)
        assert room in MAY_IMPORT, f"{module} lies in no known room: give it one in MAY_IMPORT"
        seen.add(room)
        for name in imports(tree):
            if name.partition(".")[0] != STAGES[0]:
                continue
            target = name if name in trees else name.rpartition(".")[0]
            assert room_of(target) in {room, *allowed(room)}, (
                f"{module} ({room}) imports {target} ({room_of(target)}); {room} may import "
                f"{MAY_IMPORT[room] or 'no room'}"
            )
    assert seen == set(MAY_IMPORT)


def test_the_pages_tell_the_same_rooms(root):
    """CONTRIBUTING.md's table in full; README.md's tree has the folders in the same order."""
    page = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = {}
    for name, may in re.findall(r"^\| `(\w+)/?`[^|]*\|[^|]*\| ([^|]*?) \|$", page, re.MULTILINE):
        if name in MAY_IMPORT:
            table[name] = may.partition(";")[0].replace("`", "").replace(",", "")
    assert list(table.items()) == [(k, v or "nothing") for k, v in MAY_IMPORT.items()]
    tree = (root / "README.md").read_text(encoding="utf-8").partition("## The house")[2]
    found = re.findall(r"^  (\w+)/ ", tree.partition("\npretrain/")[0], re.MULTILINE)
    folders = [room for room in MAY_IMPORT if room not in FLAT.values()]
    assert found == [*folders, "assets"]


def test_the_model_and_the_objectives_know_torch_alone(root, trees):
    paths = [root / "pretrain/objectives.py", *(root / "pretrain/model").glob("*.py")]
    pure = [path for path in paths if path.name != READS_BERT]
    assert len(pure) > 6
    for path in pure:
        tree = trees[module_of(path, root)]
        others = tops(tree) - {"torch", *HUB, "pretrain"} - set(sys.stdlib_module_names)
        assert not others, f"{path} imports {others}"
        # Inside save_pretrained and from_pretrained more is imported: the card, the newest folder.
        ours = {n for n in imports(tree, on_load=True) if n.startswith("pretrain")}
        at_home = ("pretrain.model", "pretrain.objectives", CHECKS_FILES)
        assert all(name.startswith(at_home) for name in ours), f"{path} imports {ours}"


def test_the_schema_knows_no_torch(trees):
    """Nor does what it imports of ours."""
    seen, ahead = set(), ["data_pipeline.schema"]
    while ahead:
        module = ahead.pop()
        seen.add(module)
        names = {n for n in imports(trees[module])} | {
            n.rpartition(".")[0] for n in imports(trees[module])
        }
        assert not {n.partition(".")[0] for n in names} & {"torch", "torchaudio", "transformers"}
        ahead += (names & trees.keys()) - seen


@pytest.mark.parametrize(
    ("room", "user"),
    [
        ("data_pipeline.recipes", None),
        ("pretrain.doctor", None),
        ("pretrain.bench", "pretrain.check"),
        ("pretrain.check", None),
    ],
)
def test_nothing_imports_the_recipes_the_doctor_the_benchmark_or_the_checks(trees, room, user):
    def lies_in(name: str, *rooms: str | None) -> bool:
        return any(f"{name}.".startswith(f"{one}.") for one in rooms)

    for module, tree in trees.items():
        if not lies_in(module, room, user):
            assert not any(lies_in(name, room) for name in imports(tree)), module


def test_few_modules_lie_flat_in_the_first_stage(root):
    flat = [p.name for p in (root / "data_pipeline").glob("*.py") if p.name != "__init__.py"]
    assert len(flat) <= MAX_FLAT, f"{len(flat)} files: {sorted(flat)}; give one a room"


def test_every_error_that_reaches_a_command_is_a_user_error(trees):
    """So that `run_command` tells it in one message."""
    found = {}
    for module, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
                if node.name not in NO_USER_ERRORS and not node.name.startswith("_"):
                    found[f"{module}.{node.name}"] = (module, node.name)
    assert len(found) > 20
    wrong = [
        name
        for name, (module, kind) in found.items()
        if not issubclass(getattr(importlib.import_module(module), kind), UserError)
    ]
    assert not wrong, f"{wrong} must derive from UserError"


def test_every_command_ends_by_run_command(trees):
    """What can be typed as `python -m MODULE` ends with its exit codes and its one message."""
    doors = [m for m, tree in trees.items() if "__name__ == '__main__'" in ast.unparse(tree)]
    assert len(doors) > 12
    for module in doors:
        assert "run_command(" in ast.unparse(trees[module]), f"{module} ends in its own way"
