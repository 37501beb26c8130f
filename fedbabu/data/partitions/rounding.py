"""Rounding a table without changing its sums: how many of a class's images a client gets, in whole images."""

import numpy as np
import numpy.typing as npt

TINY = 1e-6  # far above floating-point error, far below any fraction that matters


def round_table(table: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Round a table [clients, classes] so that each cell and each row sum moves to one of its neighbouring integers.

    Column sums must be integers and stay as they are. Of all such tables (there always is one: Bacharach, 1966,
    "Matrix rounding problems"), this is the nearest; rng decides between equally near ones.

    Raises:
        ValueError: if a column does not sum to an integer.
    """
    whole = np.floor(table + TINY)
    part = np.where(table - whole > TINY, table - whole, 0)
    of_columns, of_rows = part.sum(axis=0), part.sum(axis=1)
    if np.abs(of_columns - np.round(of_columns)).max(initial=0) > len(part) * TINY:
        raise ValueError("A column does not sum to an integer.")
    rows, columns = np.nonzero(part)
    if len(rows):
        least, most = np.floor(of_rows + len(part.T) * TINY), np.ceil(of_rows - len(part.T) * TINY)
        whole[rows, columns] += _choose(part[rows, columns], rows, columns, np.round(of_columns), least, most, rng)
    return whole.astype(np.int64)


def _choose(
    parts: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    of_columns: npt.NDArray[np.float64],
    least: npt.NDArray[np.float64],
    most: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Which cells to round up, 0 or 1: the largest fractions that make up the sums of the columns and rows.

    It is a transportation problem, so the solution of the linear program is one in integers.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, vstack

    cells = np.arange(len(parts))
    ones = np.ones(len(parts))
    in_row = csr_array((ones, (rows, cells)), shape=(len(least), len(cells)))
    in_column = csr_array((ones, (columns, cells)), shape=(len(of_columns), len(cells)))
    solution = linprog(
        -parts - 1e-3 * rng.random(len(parts)),
        A_ub=vstack([in_row, -in_row]), b_ub=np.concatenate([most, -least]),
        A_eq=in_column, b_eq=of_columns, bounds=(0, 1), method="highs-ds",
    )  # fmt: skip
    if not solution.success:
        raise RuntimeError(f"A table could not be rounded: {solution.message}")
    return np.round(solution.x)
