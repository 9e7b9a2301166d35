"""What the README tells people to type works as it stands there (with a smaller network and fewer steps)."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from d3pm.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SMALLER = (
    "--network.dim 16 --network.depth 1 --network.heads 2 --training.max_steps 3 --training.eval_every 3"
)
SMALLER += " --training.eval_examples 2 --training.eval_times 2"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands(verb: str) -> list[list[str]]:
    lines = [line.partition(" #")[0] for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith(f"d3pm {verb}")]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder with the configs of the repository and nothing else."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.setenv("D3PM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[1])
def test_the_examples_run(code, elsewhere, capsys):
    exec(compile(code.replace("dim=64, depth=2", "dim=16, depth=1"), "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_commands_run_one_after_the_other(elsewhere, capsys):
    (train,) = commands("train")
    assert main([*train, *SMALLER.split()]) == 0
    assert "bits/char" in capsys.readouterr().out
    later = commands("sample") + commands("evaluate") + commands("transition")
    assert len(later) >= 4
    for command in later:
        quick = ["--num-examples", "4", "--num-times", "2"] if command[0] == "evaluate" else []
        assert main([*command, *quick]) == 0
        assert capsys.readouterr().out.strip()


def test_the_two_commands_are_targets_of_the_makefile():
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), flags=re.MULTILINE):
        assert subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True).returncode == 0


def test_every_config_is_in_the_table():
    for config in (ROOT / "configs").glob("*.yaml"):
        assert f"`{config.name}`" in README


def test_nothing_is_left_to_be_filled_in():
    texts = [
        README,
        *(path.read_text() for folder in ("configs", "docs") for path in (ROOT / folder).iterdir()),
    ]
    assert not [text for text in texts if "TODO" in text or "_NUMBERS" in text]


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
