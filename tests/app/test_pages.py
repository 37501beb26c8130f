"""README and docs: every command on them is one that exists and can be composed, and every link leads somewhere.

Pages that are followed to their end have tests of their own: test_tutorials.py and test_deployment.py. The snippets of
Python are executed where the tests of what they show are.
"""

import re
import shlex
import subprocess
import sys
from itertools import pairwise

import pytest
import typer
import yaml
from support import PROJECT
from support.deployment import SECTION

from fedbabu import cli
from fedbabu.config import RunConfig, check_keys_are_read, default_run_config
from fedbabu.config.defaults import parse_overrides
from fedbabu.reproduction.experiment import Experiment
from fedbabu.reproduction.paper.tables import cells_of_table

PAGES = [*sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "docs").rglob("*.md"))]
FEDERATION_KEYS = {"num-supernodes", "client-resources-num-cpus", "client-resources-num-gpus"}
COMMANDS = typer.main.get_command(cli.app).commands
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def commands(page, *names: str):
    """The commands on a page that begin with some words, each as a line and as a shell's words.

    Lines of code blocks set variables, of which "$name" is one word and $name may be several.
    """
    variables: dict[str, str] = {}
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            stripped = line.strip()
            if found := re.fullmatch(r"(\w+)=((['\"]).*\3)", stripped):
                variables[found[1]] = shlex.split(found[2])[0]
            for command in stripped.split(" && "):
                if command.startswith(names):
                    words = shlex.split(command, comments=True)
                    for name, value in variables.items():
                        words = [value if word == f"${name}" and f'"${name}"' in line else word for word in words]
                        words = [part for word in words for part in (value.split() if word == f"${name}" else [word])]
                    yield command, words


@each_page
def test_the_sweeps_and_reports_of_a_page_can_be_composed(page):
    for line, (_, _, *words) in commands(page, "fedbabu sweep ", "fedbabu report "):
        overrides = [word for word in words if not word.startswith("--")]
        assert Experiment.compose(overrides).cells, line


@each_page
def test_the_options_of_a_pages_commands_exist(page):
    for line, words in commands(page, "fedbabu "):
        command = COMMANDS[words[1]]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


@each_page
def test_the_run_configs_of_a_pages_commands_are_valid(page, monkeypatch):
    monkeypatch.chdir(PROJECT)
    for line, words in commands(page, "flwr run ", "fedbabu partition "):
        given = dict(pairwise(words))
        config = RunConfig.from_flower(default_run_config() | parse_overrides(given.get("--run-config", "").split()))
        check_keys_are_read(config)
        assert {pair.split("=")[0] for pair in given.get("--federation-config", "").split()} <= FEDERATION_KEYS, line


def test_the_pages_have_these_commands():
    """What the tests above look at is there to be looked at."""
    counted = {page.name: len(list(commands(page, "fedbabu ", "flwr run "))) for page in PAGES}
    assert counted["README.md"] >= 5
    assert counted["experiments.md"] >= 20
    assert counted["federation.md"] >= 6
    assert counted["personal_models.md"] == 3
    assert SECTION in (PROJECT / "docs" / "federation.md").read_text(encoding="utf-8")


def test_the_gallery_has_a_command_for_every_figure_with_runs():
    gallery = PROJECT / "docs" / "_static" / "README.md"
    shown = [word for _, words in commands(gallery, "fedbabu sweep ", "fedbabu report ") for word in words]
    figures = {word.removeprefix("experiment=") for word in shown if word.startswith("experiment=")}
    assert figures == {f"figure{number:02}" for number in (*range(2, 10), 12, 13, 15, 16)}
    for path in re.findall(r"\]\((\S+\.png)\)", gallery.read_text(encoding="utf-8")):
        assert (gallery.parent / path).is_file()


def test_the_docs_have_a_command_for_every_algorithm_of_table_13():
    lines = [line for line, _ in commands(PROJECT / "docs" / "experiments.md", "fedbabu sweep ")]
    for algorithm in {cell.axes["algorithm"] for cell in cells_of_table(13)}:
        assert any(f"algorithm={algorithm}" in line.split() for line in lines)


def options_of(words) -> set[str]:
    """The names of the options in a command."""
    return {word.split("=")[0] for word in words if word.startswith("--")}


def test_docker_compose_starts_what_the_page_starts(tmp_path):
    """The same processes with the same options, and mounts of files that credentials.py makes."""
    compose = yaml.safe_load((PROJECT / "conf" / "deployment" / "compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    assert list(services) == ["superlink", "supernode-0", "supernode-1", "supernode-2", "supernode-3"]
    page = PROJECT / "docs" / "federation.md"
    for name, of_several_hosts in (("superlink", {"--host"}), ("supernode", set())):
        ((_, words),) = commands(page, f"flower-{name}")
        of_one_host = {"--port"} if name == "supernode" else set()
        for service in (service for key, service in services.items() if key.startswith(name)):
            assert service["command"][0] == f"flower-{name}"
            assert options_of(service["command"]) == options_of(words) - of_one_host | of_several_hosts
    folder = tmp_path / "credentials"
    subprocess.run([sys.executable, "conf/deployment/credentials.py", folder], cwd=PROJECT, check=True)
    mounts = [mount.split(":")[0] for service in services.values() for mount in service["volumes"]]
    files = [mount.removeprefix("./trial/credentials/") for mount in mounts if "/credentials/" in mount]
    assert len(files) == 3 + 2 * 4
    assert all((folder / file).exists() for file in files)


LINK = re.compile(r"\]\(([^)#]+)?(#[^)]+)?\)")


def anchors(page) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page):
    for path, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if path.startswith(("http", "mailto")):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), anchor
