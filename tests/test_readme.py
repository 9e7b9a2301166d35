"""What the README tells people to type works as it stands there (with a smaller network and fewer steps)."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from d3pm.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = {file.name: file.read_text() for file in sorted((ROOT / "docs").glob("*.md"))}
SHORTER = "--training.max_steps 3 --training.eval_every 3 --training.eval_examples 2 --training.eval_times 2"
SMALLER = {
    "quickstart": "--network.dim 16 --network.depth 1 --network.heads 2",
    "digits-ddpm": "--network.channels [8,8] --network.attention_at [] --process.num_steps 10",
    "digits-gaussian": "--network.network.channels [8,8] --network.network.attention_at [] "
    "--process.transition.num_steps 30",
    "adult": "--network.dim 16 --network.depth 1 --network.heads 2 --process.num_steps 30",
}
QUICK = {"evaluate": ["--num-examples", "4", "--num-times", "2"], "sample": ["--num", "2", "--steps", "4"]}


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(block: str) -> list[list[str]]:
    lines = [line.partition(" #")[0] for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("d3pm ")]


def walks() -> list[list[list[str]]]:
    """Blocks of commands that begin with a training."""
    return [found for block in blocks("sh") if (found := commands(block))]


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


@pytest.mark.parametrize(
    "code", [code for text in DOCS.values() for code in blocks("python", text)], ids=lambda code: code[:30]
)
def test_the_examples_of_the_docs_run(code, elsewhere):
    exec(compile(code, "docs", "exec"), {})


@pytest.mark.parametrize("walk", walks(), ids=lambda walk: " ".join(walk[0][1:3]))
def test_the_commands_run_one_after_the_other(walk, elsewhere, capsys):
    (verb, _, config, *_), *later = walk
    assert verb == "train"
    assert main([*walk[0], *SHORTER.split(), *SMALLER[Path(config).stem].split()]) == 0
    assert re.search("bits/(char|dim|column)", capsys.readouterr().out)
    assert len(later) >= 3
    for command in later:
        assert main([*command, *QUICK.get(command[0], [])]) == 0
        assert capsys.readouterr().out.strip()


def test_the_two_commands_are_targets_of_the_makefile():
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), flags=re.MULTILINE):
        assert subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True).returncode == 0


def test_every_config_is_in_the_table():
    for config in (ROOT / "configs").glob("*.yaml"):
        assert f"`{config.name}`" in README


def test_nothing_is_left_to_be_filled_in():
    texts = [README, *DOCS.values(), *(path.read_text() for path in (ROOT / "configs").glob("*.yaml"))]
    assert not [text for text in texts if "TODO" in text or "_NUMBERS" in text]


def test_links_lead_somewhere():
    for folder, text in [(ROOT, README), *((ROOT / "docs", text) for text in DOCS.values())]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (folder / target).exists(), target
