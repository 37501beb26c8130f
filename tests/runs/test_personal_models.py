"""Models of single clients: kept by a run, made of a run for a new client, and used to classify image files."""

import csv
import re
import shutil

import numpy as np
import PIL.Image
import pytest
import torch
from support.in_process import run_server
from support.local_data import LOCAL_DATA, nodes_with_local_data
from support.pages import snippets
from support.pictures import write_folder

from fedbabu import client_work
from fedbabu.cli import main
from fedbabu.config import RunConfig
from fedbabu.data.partitions.partition import open_simulated_data
from fedbabu.data.source import DataSpec
from fedbabu.errors import RunError
from fedbabu.models import build_model
from fedbabu.models.fixed_statistics import measure_statistics
from fedbabu.runs.classifier import Classifier
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.personalization import with_augmentation

DIGITS = tuple(range(10))


def command(capsys, *arguments) -> str:
    """What a command prints that succeeds."""
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, arguments)))
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run of digits that keeps its clients' models, and the state of every client's model after its fine-tuning."""
    from support.run_configs import small_run_config

    config = small_run_config(tmp_path_factory.mktemp("results")) | {"keep-personalized": True, "num-server-rounds": 8}
    states, fine_tune = {}, client_work.fine_tune_client

    def fine_tune_and_remember(client, *arguments):
        result = fine_tune(client, *arguments)
        states.setdefault(client.id, {name: value.clone() for name, value in client.model.state_dict().items()})
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client_work, "fine_tune_client", fine_tune_and_remember)
        run, _ = run_server(config)
    return run, states


def test_with_the_statistics_of_a_batch_the_model_is_what_it_was_in_the_batch():
    model = build_model("FourConvNet", (1, 16, 16), 10, seed=0).eval()
    images = torch.randn(300, 1, 16, 16)
    in_a_batch = model(images)
    measure_statistics(model, [images])
    torch.testing.assert_close(model(images), in_a_batch, rtol=0.02, atol=0.02)  # the variance divides by n - 1
    torch.testing.assert_close(torch.cat([model(image[None]) for image in images]), model(images), rtol=0, atol=1e-5)


def test_statistics_are_the_mean_over_batches():
    whole, parts = (build_model("FourConvNet", (1, 16, 16), 10, seed=0) for _ in range(2))
    images = torch.randn(300, 1, 16, 16)
    measure_statistics(whole, [images])
    measure_statistics(parts, images.split(100))
    first = "body.0.1.running_mean"
    torch.testing.assert_close(parts.state_dict()[first], whole.state_dict()[first], rtol=0, atol=1e-5)


def test_running_statistics_of_a_res_net_are_left_as_they_are():
    model = build_model("ResNet10", (3, 32, 32), 10, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_statistics(model, [torch.randn(4, 3, 32, 32)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_run_keeps_the_fine_tuned_model_of_every_client(kept):
    run, states = kept
    for client, state in states.items():
        network = Classifier.load(run.path / "personal" / f"{client}.safetensors").network
        saved = network.state_dict()
        assert all(torch.equal(saved[name], value) for name, value in state.items())
        assert {name.split(".")[-1] for name in saved.keys() - state.keys()} == {"running_mean", "running_var"}
    assert len(states) == 8


def test_kept_models_classify_one_image_as_well_as_a_batch(kept):
    run, _ = kept
    config = RunConfig.from_flower(run.config)
    dataset, partition = open_simulated_data(config.data_spec, config.partition_spec)
    accuracies = []
    for record in run.clients:
        model = Classifier.load(run.path / "personal" / f"{record['client']}.safetensors")
        rows = partition.rows["test"][record["client"]]
        images, labels = dataset.images["test"][rows], dataset.labels["test"][rows]
        alone = [model.predict(image[None])[0] for image in images]
        assert alone == model.predict(images)
        names = [dataset.class_names[label] for label in labels]
        accuracies.append(100 * np.mean([one == name for one, name in zip(alone, names, strict=True)]))
    in_batches = np.mean([record["accuracy"][-1] for record in run.clients])
    assert in_batches > 80
    assert abs(np.mean(accuracies) - in_batches) < 2


def test_without_the_key_no_model_is_kept(run_config):
    run, _ = run_server(run_config | {"num-server-rounds": 1})
    assert not (run.path / "personal").exists()


def test_a_node_with_local_data_keeps_its_model_itself(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDBABU_STATE", str(tmp_path / "state"))
    config = tiny_config | LOCAL_DATA | {"keep-personalized": True, "num-server-rounds": 1}
    run, _ = run_server(config, node_configs=nodes_with_local_data(tmp_path))
    assert not (run.path / "personal").exists()
    folder = tmp_path / "state" / run.recorded["run-id"] / "personal"
    assert sorted(path.name for path in folder.iterdir()) == ["0.safetensors", "1.safetensors"]
    assert Classifier.load(folder / "1.safetensors").class_names == [0, 1, 2, 3]


@pytest.fixture(scope="module")
def colour_run(tmp_path_factory, tiny_dataset):
    """A finished run on colour images of ten classes, c0 to c9."""
    from support.run_configs import tiny_run_config

    return run_server(tiny_run_config(tiny_dataset, tmp_path_factory.mktemp("results")))[0]


@pytest.fixture
def newcomer(tmp_path):
    """A folder of 40 images of two classes of the run, c0 and c1, for training and for testing."""
    write_folder(tmp_path / "newcomer", classes=2, size=(16, 16))
    return tmp_path / "newcomer"


COLUMNS = ("--image-column", "picture", "--label-column", "kind")


def test_a_run_is_personalized_to_images_that_were_not_part_of_it(colour_run, newcomer, tmp_path, capsys):
    output = tmp_path / "model.safetensors"
    printed = command(
        capsys, "personalize", "--run", colour_run.path, "--data", newcomer, *COLUMNS, "--epochs", 3, "--output", output
    )
    lines = [line.split() for line in printed.splitlines()]
    assert [line[0] for line in lines[1:5]] == ["0", "1", "2", "3"]
    assert (lines[1][2:], lines[4][2:]) == (["initial"], ["personalized"])
    assert all(0 <= float(line[1]) <= 100 for line in lines[1:5])
    assert lines[5][:2] == ["without", "head:"]
    model = Classifier.load(output)
    assert model.class_names == [f"c{number}" for number in range(10)]
    assert list(model.mean) == colour_run.recorded["normalization"]["mean"]


def test_part_chooses_what_is_fine_tuned(colour_run, newcomer, tmp_path, capsys):
    output, trained = tmp_path / "model.safetensors", colour_run.model()
    arguments = ("--run", colour_run.path, "--data", newcomer, *COLUMNS, "--part", "head", "--output", output)
    command(capsys, "personalize", *arguments)
    state = Classifier.load(output).network.state_dict()
    changed = {name for name, value in trained.items() if not torch.equal(state[name], value)}
    assert changed == {"head.weight", "head.bias"}


def test_other_classes_and_other_sizes_are_refused(colour_run, tmp_path, capsys):
    write_folder(tmp_path / "classes", classes=12, size=(16, 16))
    write_folder(tmp_path / "size", classes=2, size=(20, 16))
    problems = {
        "classes": "has the classes c10, c11, which",
        "size": "20×16 pixels in colour: they must be 16×16",
    }
    for name, text in problems.items():
        with pytest.raises(SystemExit, match=text):
            main(["personalize", "--run", str(colour_run.path), "--data", str(tmp_path / name), *COLUMNS])


def test_a_run_that_is_not_finished_is_refused(tmp_path, newcomer):
    with pytest.raises(SystemExit, match="not the folder of a finished run"):
        main(["personalize", "--run", str(tmp_path), "--data", str(newcomer)])


@pytest.fixture
def model_file(kept):
    run, _ = kept
    return run.path / "personal" / "0.safetensors"


def write_digits(folder, number: int) -> list:
    """Write so many random images of 16×16 pixels in grayscale, the size of the digits."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (number, 16, 16), dtype=np.uint8)
    for index, image in enumerate(pixels):
        PIL.Image.fromarray(image).save(folder / f"{index}.png")
    return pixels


def test_images_are_classified_to_csv(model_file, tmp_path, capsys):
    pixels = write_digits(tmp_path / "images" / "below", 3)
    output = tmp_path / "classes.csv"
    printed = command(capsys, "predict", "--model", model_file, "--data", tmp_path / "images", "--output", output)
    assert f"Classes of 3 images: {output}" in printed
    with output.open() as file:
        rows = list(csv.DictReader(file))
    expected = Classifier.load(model_file)
    assert [row["file"] for row in rows] == [f"below/{index}.png" for index in range(3)]
    assert [row["class"] for row in rows] == list(map(str, expected.predict(pixels[..., None])))
    assert float(rows[0]["probability"]) == pytest.approx(expected.probabilities(pixels[..., None])[0].max(), abs=1e-4)


def test_one_image_is_classified(model_file, tmp_path, capsys):
    (pixels,) = write_digits(tmp_path, 1)
    printed = command(
        capsys, "predict", "--model", model_file, "--data", tmp_path / "0.png", "--output", tmp_path / "one.csv"
    )
    assert str(Classifier.load(model_file).predict(pixels[None, ..., None])[0]) in printed


def test_what_cannot_be_classified_is_named(model_file, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.png").write_text("no image")
    PIL.Image.new("L", (17, 16)).save(tmp_path / "large.png")
    for name, text in {
        "nowhere": "does not exist",
        "empty": "has no image files",
        "no.png": "it is no image file",
        "large.png": "16×17 pixels: it must have 16×16",
    }.items():
        with pytest.raises(SystemExit, match=text):
            main(["predict", "--model", str(model_file), "--data", str(tmp_path / name)])


def test_a_file_that_is_no_model_is_named(kept, tmp_path):
    (tmp_path / "text.safetensors").write_text("text")
    for path in (tmp_path / "text.safetensors", kept[0].path / "model.safetensors"):
        with pytest.raises(RunError, match=rf"{path.name} is not a model"):
            Classifier.load(path)


def test_a_run_without_a_global_model_is_refused(run_config, newcomer):
    run, _ = run_server(run_config | {"algorithm": "local-only", "num-server-rounds": 1})
    with pytest.raises(SystemExit, match="has no global model"):
        main(["personalize", "--run", str(RunFolder(run.path).path), "--data", str(newcomer)])


def test_a_model_that_cannot_be_saved_does_not_cost_the_clients_result(tiny_config, monkeypatch, capsys):
    def fail(model, path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Classifier, "save", fail)
    run, _ = run_server(tiny_config | {"keep-personalized": True, "record": "similarity"})
    assert run.summary["missing"] == {}
    assert "The model of client 3 was not kept" in capsys.readouterr().out


def test_a_run_that_adapts_to_test_images_is_refused(run_config, newcomer):
    run, _ = run_server(run_config | {"algorithm": "per-fedavg", "protocol": "code", "num-server-rounds": 1})
    with pytest.raises(SystemExit, match="adapts its clients to test images"):
        main(["personalize", "--run", str(run.path), "--data", str(newcomer)])


def test_a_run_that_fine_tunes_nothing_needs_a_part(tiny_config, newcomer, tmp_path, capsys):
    run, _ = run_server(tiny_config | {"algorithm": "ditto", "num-server-rounds": 1})
    given = ["--run", run.path, "--data", newcomer, *COLUMNS, "--output", tmp_path / "model.safetensors"]
    with pytest.raises(SystemExit, match="fine-tunes nothing"):
        main(["personalize", *map(str, given)])
    for options, names in (
        (["--part", "head", "--epochs", 1], ["initial", "personalized"]),
        (["--epochs", 0], ["initial"]),
    ):
        rows = re.findall(r"^ *\d+ +[\d.]+ +(\w+)$", command(capsys, "personalize", *given, *options), re.MULTILINE)
        assert rows == names


def test_a_newcomer_is_augmented_as_the_run_was(tiny_config, newcomer):
    run, _ = run_server(tiny_config | {"crop-padding": 1, "horizontal-flip": "no", "num-server-rounds": 1})
    spec = with_augmentation(DataSpec(str(newcomer), "picture", "kind"), run)
    assert (spec.crop_padding, spec.flip) == (1, False)


def test_the_snippet_of_the_page_works_on_a_kept_model(kept, tmp_path, monkeypatch):
    run, _ = kept
    shutil.copy(run.path / "personal" / "0.safetensors", tmp_path / "mine-model.safetensors")
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 1), dtype=np.uint8)
    defined = {"images": images}
    exec(snippets("personal_models.md"), defined)
    assert set(defined["classes"]) <= set(map(str, DIGITS))
    assert len(defined["classes"]) == 20
