"""Classes in a federation of owners: nodes agree on one numbering by name, whatever each of them has."""

import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from flwr.app import MessageType
from support.errors import config_error
from support.in_process import essence, run_server, tasks
from support.local_data import LOCAL_DATA
from support.pictures import write_images

from fedbabu.federation.class_names import agree_on_class_names

CLASSES_OF_OWNERS = (("cat", "dog", "emu"), ("emu", "dog"), ("emu",))


@pytest.fixture
def config(tiny_config):
    """Two rounds of three clients with folders of images."""
    columns = {"image-column": "", "label-column": ""}
    return tiny_config | LOCAL_DATA | columns | {"num-clients": 3, "num-server-rounds": 2}


@pytest.fixture
def owners(tmp_path):
    """For each client, a folder with some of the classes."""
    for owner, names in enumerate(CLASSES_OF_OWNERS):
        write_images(tmp_path / str(owner), {f"{split}/{name}": 10 for split in ("train", "test") for name in names})
    return [{"data-path": str(tmp_path / str(owner)), "partition-id": owner} for owner in range(3)]


def as_parquet(folder, target, feature, number):
    """Write the same images in the same order into parquet files, labelled by the feature and a number a class name."""
    target.mkdir()
    for split in ("train", "test"):
        files = sorted((folder / split).rglob("*.png"))
        columns = {"image": list(map(str, files)), "label": [number(file.parent.name) for file in files]}
        rows = Dataset.from_dict(columns, features=Features({"image": Image(), "label": feature}))
        rows.to_parquet(target / f"{split}.parquet")


def test_owners_that_number_their_classes_apart_train_one_model(config, owners, tmp_path):
    run, grid = run_server(config, node_configs=owners)
    assert run.recorded["class-names"] == ["cat", "dog", "emu"]
    assert run.dataset["num-classes"] == 3
    assert [client["classes"] for client in run.clients] == [[0, 1, 2], [1, 2], [2]]
    assert all(task.class_names == ("cat", "dog", "emu") for task in tasks(grid, MessageType.TRAIN))

    union = ["cat", "dog", "emu"]
    for owner in range(3):
        as_parquet(tmp_path / str(owner), tmp_path / f"parquet{owner}", ClassLabel(names=union), str)
    alike = [dict(node, **{"data-path": str(tmp_path / f"parquet{owner}")}) for owner, node in enumerate(owners)]
    same, _ = run_server(config, node_configs=alike)
    assert essence(same)["states"] == essence(run)["states"]


def test_numbers_of_classes_are_the_same_class_on_all_nodes(config, owners, tmp_path):
    numbers = {"cat": 3, "dog": 10, "emu": 20}
    for owner in range(3):
        as_parquet(tmp_path / str(owner), tmp_path / f"parquet{owner}", Value("int64"), numbers.get)
    alike = [dict(node, **{"data-path": str(tmp_path / f"parquet{owner}")}) for owner, node in enumerate(owners)]
    run, _ = run_server(config, node_configs=alike)
    assert run.recorded["class-names"] == [3, 10, 20]
    assert [client["classes"] for client in run.clients] == [[0, 1, 2], [1, 2], [2]]


def test_names_and_numbers_cannot_be_matched(config, owners, tmp_path):
    as_parquet(tmp_path / "1", tmp_path / "parquet1", Value("int64"), {"dog": 1, "emu": 2}.get)
    owners[1]["data-path"] = str(tmp_path / "parquet1")
    with config_error("SuperNode 100 has the classes cat, dog, emu", "SuperNode 101 only the numbers 1, 2"):
        run_server(config, node_configs=owners)


def test_nodes_with_the_same_list_keep_its_order():
    assert agree_on_class_names({1: ("truck", "airplane"), 2: ("truck", "airplane")}) == ("truck", "airplane")
    assert agree_on_class_names({1: ("truck", "airplane"), 2: ("ship",)}) == ("airplane", "ship", "truck")
    assert agree_on_class_names({1: (10, 2), 2: (1,)}) == (1, 2, 10)


def test_how_data_were_read_is_said_in_the_first_lines(config, owners, capsys):
    run_server(config, node_configs=owners)
    printed = capsys.readouterr().out
    assert printed.count("Augmentation: random crops with a padding of 2 pixels, mirrored at random") == 1
    run_server(config | {"crop-padding": 0, "horizontal-flip": False}, node_configs=owners)
    assert "Augmentation: no crops, not mirrored" in capsys.readouterr().out


def test_a_class_that_only_test_images_have_is_refused_by_the_name_of_its_node(config, owners, tmp_path):
    write_images(tmp_path / "1", {"test/unicorn": 2})
    with config_error("SuperNode 101 has test images", "no client has training images: unicorn"):
        run_server(config, node_configs=owners)


def test_a_node_may_test_a_class_that_another_node_trains(config, owners, tmp_path):
    write_images(tmp_path / "2", {"test/cat": 2})
    run, _ = run_server(config, node_configs=owners)
    assert [client["num-test-examples"] for client in run.clients] == [30, 20, 12]
