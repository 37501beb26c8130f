"""The published numbers are what the committed runs, results/paper, give."""

import re
from itertools import product

import numpy as np
import pytest
from support import PROJECT

from fedbabu.cli import main
from fedbabu.formatting import plus_minus
from fedbabu.reproduction.comparison import mean_and_error
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.results_folder import finished_runs
from fedbabu.runs.settings import declared_algorithm

PUBLISHED, AFTER_20_ROUNDS = PROJECT / "results" / "paper", PROJECT / "results" / "after-20-rounds"
HYPOTHESES = PROJECT / "results" / "hypotheses"
REPRODUCTION = (PROJECT / "docs" / "reproduction.md").read_text(encoding="utf-8")


def printed(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert not stopped.value.code
    return capsys.readouterr().out


def published(algorithm: str, seed: int) -> RunFolder:
    """The published run of an algorithm with a seed."""
    (run,) = (
        run for run in finished_runs(PUBLISHED) if (run.config["algorithm"], run.config["seed"]) == (algorithm, seed)
    )
    return run


def test_the_table_of_the_readme_is_printed_by_its_command(capsys, tmp_path):
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    command, table = re.search(r"```bash\n(fedbabu compare .*)\n```\n\n```\n(.*?)```", readme, flags=re.DOTALL).groups()
    assert command == "fedbabu compare results/paper --output comparison.png"
    output = printed(capsys, "compare", str(PUBLISHED), "--output", str(tmp_path / "comparison.png"))
    assert table in output


def rows(heading: str) -> dict[str, list[str]]:
    """The cells of the first table below a heading of docs/reproduction.md, by the first cell of each row."""
    below = REPRODUCTION.split(f"{heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\n)+", below, flags=re.MULTILINE)[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: others for first, *others in cells}


def test_the_table_of_what_measuring_is_worth_is_that_of_the_published_runs():
    table = rows("## What the differences in measuring are worth")
    measured = {
        "cosine, plain, mixed (the text)": "cosine plain mixed",
        "Euclidean, plain, mixed": "euclidean plain mixed",
        "cosine, augmented, mixed": "cosine augmented mixed",
        "cosine, plain, class by class": "cosine plain class-by-class",
        "Euclidean, augmented, class by class (the code)": "euclidean augmented class-by-class",
    }
    # The fourth column is of a run on the authors' draw, which is not published.
    columns = {
        0: published("fedbabu", 1).clients, 1: published("fedbabu", 2).clients, 2: published("fedavg", 2).clients,
        4: published("fedavg", 1).clients, 5: published("fedavg", 1).best_clients,
    }  # fmt: skip
    for row, templates in measured.items():
        for column, clients in columns.items():
            mean = np.mean([client["without-head-accuracy"][templates] for client in clients])
            assert table[row][column] == f"{mean:.2f}", (row, column)


def test_the_table_of_the_other_algorithms_is_that_of_the_published_runs():
    """But for the numbers that are marked as those of another seed, by an earlier version."""
    table, found = rows("## The other algorithms, as the text and as the code"), 0
    for run in finished_runs(AFTER_20_ROUNDS):
        without_head_and_personalized = table[declared_algorithm(run.config).title]
        by_protocol = run.summary["accuracy-by-protocol"]
        for column, (metric, protocol) in enumerate(product(("without-head", "personalized"), ("text", "code"))):
            measured = by_protocol.get(protocol, run.summary["accuracy"] if run.config["protocol"] == protocol else {})
            if metric in measured:
                expected = plus_minus(measured[metric]["mean"], measured[metric]["std"])
                assert without_head_and_personalized[column] == expected, (run.path.name, column)
                found += 1
    assert found == 22


def test_ditto_as_in_the_code_is_personal_for_the_clients_of_the_last_round_alone():
    (run,) = (
        run
        for run in finished_runs(AFTER_20_ROUNDS)
        if (run.config["algorithm"], run.config["protocol"]) == ("ditto", "code")
    )
    last = {True: [], False: []}
    for client in run.clients:
        last[client["client"] in run.rounds[-1].clients].append(client["accuracy"][-1])
    assert (len(last[True]), len(last[False])) == (10, 90)
    means = f"{np.mean(last[True]):.1f} %, and the other 90 at {np.mean(last[False]):.1f} %"
    assert means in " ".join(REPRODUCTION.split())


def test_what_was_tried_to_explain_the_gap_is_what_its_runs_give():
    usual, text = published("fedbabu", 2), " ".join(REPRODUCTION.split())
    runs = finished_runs(HYPOTHESES)
    assert len(runs) == 2
    for run in runs:
        assert run.config["seed"] == 2
        means = {name: f"{cell['mean']:.2f}" for name, cell in run.summary["accuracy"].items()}
        as_the_code = run.summary["accuracy-by-protocol"]["code"]["without-head"]["mean"]
        ends = f"{means['initial']} initial, {means['without-head']} without head ({as_the_code:.2f} as the code) and "
        assert f"{ends}{means['personalized']} personalized" in text
        of_run, of_usual = run.accuracies(), usual.accuracies()
        pairs = [mean_and_error([of_run[metric] - of_usual[metric]]) for metric in means]
        assert len({mean > 0 for mean, _ in pairs}) == 1
        *most, last = (f"{abs(mean):.1f} ± {error:.1f}" for mean, error in pairs)
        assert f"{', '.join(most)} and {last} {'above' if pairs[0][0] > 0 else 'below'} its run with" in text


@pytest.mark.parametrize(("algorithm", "seed"), [("fedbabu", 1), ("fedbabu", 2), ("fedavg", 2)])
def test_the_accuracies_after_each_epoch_of_fine_tuning_are_those_of_the_published_runs(algorithm, seed):
    accuracy = np.mean([client["accuracy"] for client in published(algorithm, seed).clients], axis=0)
    *most, last = (f"{value:.2f}" for value in accuracy)
    text = " ".join(REPRODUCTION.split())  # whose lines may break anywhere
    assert f"{', '.join(most)} and {last}" in text
