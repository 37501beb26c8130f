"""The command line, `fedbabu`, with all its commands. `python -m fedbabu` is the same."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedbabu.errors import ConfigError, RunError

# Each command imports what it needs, because some of that takes seconds.
app = typer.Typer(
    help="Reproduce the paper's tables and figures, and look at what a run takes. The runs themselves: `flwr run`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
Overrides = Annotated[list[str] | None, typer.Argument()]


def main(arguments: list[str] | None = None) -> None:
    """Run a command; its exit status is 0, 1 after an error in one sentence, 2 for wrong usage, or 130 after Ctrl-C."""
    try:
        app(arguments, prog_name="fedbabu")
    except (ConfigError, RunError) as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"A file cannot be used: {error}.")


@app.command()
def sweep(
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and how long they would take.")] = False,
) -> None:
    """Run what is left of an experiment, then show its report.

    OVERRIDES choose and change the experiment, as Hydra has them: experiment=table13 cells.s=2 seeds=[1,2]
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops like Ctrl-C, with everything that was started
    try:
        from fedbabu.reproduction.experiment import Experiment
        from fedbabu.reproduction.report import terminal, write_report
        from fedbabu.reproduction.sweep import carry_out, listing, plan, summary

        console, experiment = terminal(), Experiment.compose(overrides or [])
        runs = plan(experiment)
        if dry_run:
            console.print(listing(runs))
        console.print(summary(experiment, runs))
        if dry_run:
            return
        carry_out(runs, experiment.results_dir / ".sweep", console)
        print(write_report(experiment, console.width))
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on where it stopped.", file=sys.stderr)
        raise typer.Exit(130) from None
    failed = [run for run in runs if run.failure]
    for run in failed:
        console.print(f"Failed: {run.labels[0]}: {run.failure}", style="red")
    if failed:
        raise typer.Exit(1)


@app.command()
def experiments() -> None:
    """List all experiments and how long they would take here."""
    from fedbabu.formatting import format_duration
    from fedbabu.reproduction.composition import experiment_names
    from fedbabu.reproduction.experiment import Experiment
    from fedbabu.reproduction.sweep import plan

    print("| experiment | | data, network | runs | time |\n| --- | --- | --- | --- | --- |")
    for name in experiment_names():
        experiment = Experiment.compose([f"experiment={name}"])
        if not (runs := plan(experiment)):  # Table 8 has the sizes of the datasets
            continue
        seconds = sum(run.seconds or 0 for run in runs if run.state != "finished")
        settings = {f"{run.config['dataset']}, {run.config['model-name']}" for run in runs}
        setting = settings.pop() if len(settings) == 1 else f"{len(settings)} pairs"
        print(f"| `{name}` | {experiment.title} | {setting} | {len(runs)} | {format_duration(seconds)} |", flush=True)


@app.command()
def report(overrides: Overrides = None) -> None:
    """Show the results of an experiment beside the paper's.

    OVERRIDES choose and narrow the experiment, as for `fedbabu sweep`: experiment=table13 cells.s=2
    """
    from fedbabu.reproduction.experiment import Experiment
    from fedbabu.reproduction.report import terminal, write_report

    print(write_report(Experiment.compose(overrides or []), terminal().width))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs, or folders of such folders.")],
    output: Annotated[Path, typer.Option(help="The picture.")] = Path("comparison.png"),
) -> None:
    """Compare runs: a table, a picture, and paired differences."""
    import pandas as pd

    from fedbabu.plots.accuracy import accuracy_over_clients
    from fedbabu.plots.style import common_title, save_picture
    from fedbabu.reproduction.run_comparison import comparison_table, groups_of, paired_sentences
    from fedbabu.runs.folder import RunFolder
    from fedbabu.runs.results_folder import finished_runs

    folders: list[RunFolder] = []
    for path in runs:
        folders += [RunFolder(path)] if (path / "config.json").exists() else finished_runs(path)
    if not folders:
        raise ConfigError(f"There are no finished runs in {', '.join(map(str, runs))}.")
    groups = groups_of(folders)
    header, *rows = comparison_table(groups)
    print(common_title(folders), "Accuracy in %: mean ± std over clients / std over seeds", sep="\n")
    print(pd.DataFrame(rows, columns=header).set_index("").rename_axis(None).to_string())
    print(*paired_sentences(groups), sep="\n")
    picture = accuracy_over_clients([run for group in groups for run in group.runs.values()])
    print(f"Picture: {save_picture(picture, output, 'comparison.png')}")


@app.command()
def partition(
    run_config: Annotated[list[str] | None, typer.Option(help="As for `flwr run`: keys, or a TOML file.")] = None,
    output: Annotated[Path | None, typer.Option(help="The picture; by default in `partitions` of results-dir.")] = None,
) -> None:
    """Show and draw how a dataset is divided among the clients."""
    import pandas as pd

    from fedbabu.config import RunConfig, default_run_config, parse_overrides
    from fedbabu.data.partitions.partition import all_class_counts, open_simulated_data, partition_name, partition_title
    from fedbabu.plots.paper_figures import clients_and_classes
    from fedbabu.plots.style import save_picture

    config = RunConfig.from_flower(default_run_config() | parse_overrides(run_config or []))
    dataset, clients = open_simulated_data(config.data_spec, config.partition_spec)
    counts, title = all_class_counts(dataset, clients), partition_title(dataset, config.partition_spec)
    train, test = counts["train"], counts["test"]  # numbers of images, int64 [clients, classes]
    held = pd.DataFrame(
        {
            "training images": train.sum(axis=1),
            "test images": test.sum(axis=1),
            "classes in training": (train > 0).sum(axis=1),
            "classes in testing": (test > 0).sum(axis=1),
            "of them, not in training": ((test > 0) & (train == 0)).sum(axis=1),
        }
    )
    numbers = held.describe().T.assign(std=held.std(ddof=0))
    print(title, numbers.rename_axis(columns="of a client").to_string(float_format="{:.1f}".format), sep="\n")
    num_train, num_test = len(dataset.labels["train"]), len(dataset.labels["test"])
    print(f"{train.sum()} of {num_train} training images and {test.sum()} of {num_test} test images")
    name = f"{Path(dataset.name).name}-{partition_name(config.partition_spec)}.png"
    output = output or config.results_folder / "partitions" / name
    print(f"Picture: {save_picture(clients_and_classes(counts, title, dataset), output, name)}")


@app.command()
def personalize(
    run: Annotated[Path, typer.Option(help="The folder of a finished run.")],
    data: Annotated[str, typer.Option(help="The new client's images, as for the key `dataset`.")],
    part: Annotated[str, typer.Option(help="head, body or full; by default what the run fine-tunes.")] = "",
    epochs: Annotated[int | None, typer.Option(min=0, help="By default as many as in the run.")] = None,
    test_fraction: Annotated[float, typer.Option(min=0, max=1, help="As the key `test-fraction`.")] = 0.0,
    image_column: Annotated[str, typer.Option(help="As the key `image-column`.")] = "",
    label_column: Annotated[str, typer.Option(help="As the key `label-column`.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    output: Annotated[Path | None, typer.Option(help="The model, a safetensors file.")] = None,
) -> None:
    """Fine-tune a run's model to images that were not part of it."""
    import pandas as pd

    from fedbabu.data.source import DataSpec
    from fedbabu.runs.folder import RunFolder
    from fedbabu.runs.personalization import personalize

    spec = DataSpec(data, image_column, label_column, test_fraction=test_fraction)
    folder = RunFolder(run)
    result, model = personalize(folder, spec, part, epochs, device)
    names = {len(result.accuracy) - 1: "personalized", 0: "initial"}  # without fine-tuning, the initial one alone
    epochs_measured = range(len(result.accuracy))
    table = pd.DataFrame(
        {
            "epoch": epochs_measured,
            "accuracy in %": [f"{accuracy:.2f}" for accuracy in result.accuracy],
            "": [names.get(epoch, "") for epoch in epochs_measured],
        }
    )
    templates = folder.measurement.templates
    print(table.to_string(index=False), f"without head: {result.without_head_accuracy[templates]:.2f} %", sep="\n")
    path = (output or Path(f"{Path(data).name}-model.safetensors")).absolute()
    model.save(path)
    print(f"Model: {path}")


@app.command()
def predict(
    model: Annotated[Path, typer.Option(help="A model that keep-personalized or `fedbabu personalize` saved.")],
    data: Annotated[Path, typer.Option(help="An image file, or a folder of image files.")],
    output: Annotated[Path, typer.Option(help="The classes, as CSV.")] = Path("predictions.csv"),
) -> None:
    """Classify images, one or many, with a saved model."""
    import numpy as np
    import pandas as pd

    from fedbabu.data.image_files import find_images, read_images
    from fedbabu.runs.classifier import Classifier

    loaded, files = Classifier.load(model), find_images(data)
    portions = (files[start : start + 1000] for start in range(0, len(files), 1000))  # all pixels might not fit
    probabilities = np.concatenate([loaded.probabilities(read_images(few, loaded.image_shape)) for few in portions])
    table = pd.DataFrame(
        {
            "file": [str(file.relative_to(data)) if data.is_dir() else str(file) for file in files],
            "class": [loaded.class_names[number] for number in probabilities.argmax(axis=1)],
            "probability": probabilities.max(axis=1).round(4),
        }
    )
    table.to_csv(output, index=False)
    print(table.head(20).to_string(index=False))
    print(f"Classes of {len(files)} images: {output.absolute()}")


@app.command()
def state(
    remove: Annotated[
        list[str] | None, typer.Option(help="Remove the states of the run with this id; may be given several times.")
    ] = None,
) -> None:
    """List or remove the client states on this machine."""
    import pandas as pd

    from fedbabu.runs.local_states import find_states, local_state_folder, local_states

    for states in find_states(remove or []):
        states.remove()
        print(f"Removed the client states of {states.run_id}")
    rows = [
        {
            "id": states.run_id,
            "run": states.run_name,
            "clients": ", ".join(map(str, states.clients)),
            "MB": f"{states.num_bytes / 1e6:.1f}",
            "last saved": states.last_written,
        }
        for states in local_states()
    ]
    table = pd.DataFrame(rows).to_string(index=False) if rows else "None."
    print(f"Client states in {local_state_folder()}:", table, sep="\n")


@app.command(name="app")
def app_path() -> None:
    """Print the path of the app's folder, which `flwr run` takes."""
    from fedbabu.reproduction.app_folder import app_folder

    print(app_folder())


@app.command()
def config() -> None:
    """Print all run-config keys: default, allowed values, meaning."""
    from fedbabu.config import RunConfig, default_run_config, key_groups, key_meanings, toml_value
    from fedbabu.config.wording import allowed_values

    defaults, meanings, schemas = default_run_config(), key_meanings(), RunConfig.model_json_schema()["properties"]
    for group, keys in key_groups().items():
        print(f"## {group}\n\n| key | default | allowed | meaning |\n| --- | --- | --- | --- |")
        for key in keys:
            print(f"| `{key}` | `{toml_value(defaults[key])}` | {allowed_values(schemas[key])} | {meanings[key]} |")
        print()
