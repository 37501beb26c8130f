"""Entries of the cache: built once, and only complete ones are read."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fedbabu.data.cache import cached


def test_an_entry_that_several_threads_need_is_built_once(tmp_path):
    builds = []

    def build(path):
        builds.append(path)
        time.sleep(0.3)
        path.write_text("whole")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: cached(tmp_path / "entry", build, Path.read_text), range(4)))
    assert len(builds) == 1
    assert (tmp_path / "entry").read_text() == "whole"
