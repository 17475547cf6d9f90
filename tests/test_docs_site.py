"""The pages for people: links and anchors are there, commands and settings are some, and the site
builds without a warning."""

import ast
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from data_pipeline.config import load_config
from data_pipeline.extraction.config import DataConfig
from finetune.app import AppConfig
from finetune.config import FinetuneConfig
from finetune.predict import split_words
from finetune.timeline.config import PredictConfig
from pretrain.config import PretrainConfig

STAGES = {
    "extraction": DataConfig,
    "pretraining": PretrainConfig,
    "finetuning": FinetuneConfig,
    "prediction": PredictConfig,
}
"""Page of a stage to the config whose settings its table of settings names."""
WITH_SETTINGS = {
    "data_pipeline.doctor": DataConfig,
    "data_pipeline.extract": DataConfig,
    "launch/pretrain.sh": PretrainConfig,
    "finetune/run.py": FinetuneConfig,
    "finetune.predict": PredictConfig,
    "finetune.app": AppConfig,
}
"""Commands that are told what to do by settings; the others have arguments."""
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def pages(root: Path) -> list[Path]:
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]


def anchors(page: Path) -> set[str]:
    """Of its headings, where GitHub and the site's generator agree on them."""
    titles = HEADING.findall(FENCED.sub("", page.read_text(encoding="utf-8")))
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).replace("`", "") for title in titles]
    words = [re.sub(r"[^\w\s-]", "", title).strip().lower() for title in plain]
    of_github = {re.sub(r"\s", "-", title) for title in words}
    return of_github & {re.sub(r"[-\s]+", "-", title) for title in words}


def test_every_link_and_anchor_is_there(root: Path) -> None:
    broken, found = [], 0
    for page in pages(root):
        text = CODE.sub("", FENCED.sub("", page.read_text(encoding="utf-8")))
        for link in LINK.findall(text):
            if re.match(r"[a-z]+:", link):
                continue
            found += 1
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            where = f"{page.relative_to(root)}: {link}"
            if not target.exists():
                broken.append(f"{where}: no such file")
            elif anchor and anchor not in anchors(target):
                broken.append(f"{where}: no such heading")
            elif page.is_relative_to(root / "docs") and not target.is_relative_to(root / "docs"):
                broken.append(f"{where}: leaves docs/, and would lead nowhere on the site")
    assert not broken, "\n".join(broken)
    assert found > 40, "the search has lost its way"


def entries(nav: list) -> list[str]:
    """The files of mkdocs.yml's nav."""
    found = []
    for entry in nav:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += entries(value) if isinstance(value, list) else [value]
    return found


def test_the_site_shows_every_page(root: Path) -> None:
    site = yaml.safe_load((root / "mkdocs.yml").read_text(encoding="utf-8"))
    docs = {path.relative_to(root / "docs").as_posix() for path in (root / "docs").rglob("*.md")}
    shown = entries(site["nav"])
    assert len(shown) == len(set(shown))
    assert set(shown) - docs == set(), "pages that are not there"
    assert docs - set(shown) == set(), "pages that mkdocs.yml does not show"


def commands(root: Path) -> list[list[str]]:
    """The words of the commands in the pages of the stages."""
    text = "".join((root / f"docs/{page}.md").read_text(encoding="utf-8") for page in STAGES)
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_every_setting_of_the_commands_is_one(root: Path) -> None:
    read = set()
    for words in commands(root):
        name = next((name for name in WITH_SETTINGS if name in words), None)
        if name is None or any(word.startswith("add=") for word in words):
            continue
        rest = words[words.index(name) + 1 :]
        path = None
        if "--config" in rest:
            at = rest.index("--config")
            path, rest = root / rest[at + 1], rest[:at] + rest[at + 2 :]
        if name == "finetune.predict":
            _, rest = split_words(rest)
        load_config(WITH_SETTINGS[name], path, rest)
        read.add(name)
    assert read == WITH_SETTINGS.keys()


WITH_SUBCOMMANDS = (
    "finetune.protocols",
    "data_pipeline.corpora",
    "finetune.systems.speech_resnet",
)


def test_the_other_commands_have_these_arguments(root: Path, capsys) -> None:
    read = set()
    for words in commands(root):
        if words[:2] != ["python", "-m"] or words[2] in WITH_SETTINGS:
            continue
        module = words[2]
        package = importlib.util.find_spec(module)
        door = f"{module}.__main__" if package and package.submodule_search_locations else module
        main = importlib.import_module(door).main
        sub = [words[3]] if module in WITH_SUBCOMMANDS else []
        with pytest.raises(SystemExit) as ended:
            main([*sub, "--help"])
        told = capsys.readouterr().out
        assert ended.value.code == 0
        for option in (word for word in words[3:] if word.startswith("--")):
            assert option == "--config" or option in told, f"{shlex.join(words)}: {option}"
        read.add(module)
    assert {"finetune.export", "finetune.compare", "data_pipeline.summary"} <= read


@pytest.mark.parametrize("page", STAGES)
def test_every_setting_in_a_pages_tables_is_one(root: Path, page: str) -> None:
    text = FENCED.sub("", (root / f"docs/{page}.md").read_text(encoding="utf-8"))
    last = [line.split("|")[-2] for line in text.splitlines() if line.startswith("| ")]
    told = [word for cell in last for code in CODE.findall(cell) for word in words_of(code[1:-1])]
    settings = [word for word in told if re.match(r"[a-z_.]+=[^=N.]", word)]
    assert len(settings) > 3
    for setting in settings:
        words = [setting] if page != "prediction" else ["output=x", setting]
        words = words if page != "extraction" else ["clips=x", "output=x", setting]
        load_config(STAGES[page], None, words)


def words_of(code: str) -> list[str]:
    """Of a command or setting; none of a message with quotation marks."""
    try:
        return shlex.split(code)
    except ValueError:
        return []


def test_every_module_that_a_page_names_is_there(root: Path) -> None:
    named = {
        name
        for page in pages(root)
        for name in re.findall(
            r"python -m ((?:data_pipeline|pretrain|finetune)[\w.]*\w)", page.read_text()
        )
    }
    assert len(named) > 15
    missing = [name for name in sorted(named) if importlib.util.find_spec(name) is None]
    assert not missing


def test_the_code_of_the_pages_imports_what_is_there(root: Path) -> None:
    imported = 0
    for page in STAGES:
        text = (root / f"docs/{page}.md").read_text(encoding="utf-8")
        for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom):
                    module = importlib.import_module(node.module or "")
                    assert all(hasattr(module, alias.name) for alias in node.names)
                    imported += 1
    assert imported > 3


@pytest.mark.slow
def test_the_site_builds_without_a_warning(root: Path, tmp_path: Path) -> None:
    for module in ("mkdocs", "material"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}, which is not installed: pip install -e .[docs]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for page in ("index", *STAGES):
        assert (tmp_path / f"{page}.html").is_file()
