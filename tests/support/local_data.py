"""Nodes with local data, as in a real federation."""

from pathlib import Path

from support.pictures import write_folder

# The run-config keys that describe the folders below.
LOCAL_DATA = {
    "dataset": "pets",
    "image-column": "picture",
    "label-column": "kind",
    "num-clients": 2,
    "fraction-train": 1.0,
}


def nodes_with_local_data(folder: Path, client_ids=(0, 1)) -> list[dict]:
    """The node configurations of two nodes, each with a folder of 40 images of two classes, sorted by class."""
    configs = []
    for index, client in enumerate(client_ids):
        data = folder / f"owner{index}"
        write_folder(data, size=(16, 16), num=40, labels=[2 * index] * 20 + [2 * index + 1] * 20)
        configs.append({"data-path": str(data), "partition-id": client})
    return configs
