"""Rounding a table without changing its sums: whole numbers of images for each client and class."""

import numpy as np
import numpy.typing as npt

from fedbabu.data.source import IntArray

TINY = 1e-6  # far above floating-point error, far below any fraction that matters


def round_table(table: npt.NDArray[np.float64], rng: np.random.Generator) -> IntArray:
    """Round a table [clients, classes] so that each cell and each row sum moves to one of its neighbouring integers.

    Column sums stay as they are, and must be integers, else a ValueError is raised. Such a rounded table always exists
    (Bacharach, 1966, "Matrix rounding problems"); this is the nearest one; `rng` decides between equally near ones.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, vstack

    num_rows, num_columns = table.shape
    whole = np.floor(table + TINY)
    fractions = np.where(table - whole > TINY, table - whole, 0)
    column_sums, row_sums = fractions.sum(axis=0), fractions.sum(axis=1)
    if np.abs(column_sums - np.round(column_sums)).max(initial=0) > num_rows * TINY:
        raise ValueError("A column does not sum to an integer.")
    rows, columns = np.nonzero(fractions)
    if not len(rows):
        return whole.astype(np.int64)

    # The cells to round up are those with the largest fractions that give the columns and rows their sums.
    # This is a transportation problem, so its linear program has a solution in integers, 0 or 1 for each cell.
    cells, ones = np.arange(len(rows)), np.ones(len(rows))
    in_row = csr_array((ones, (rows, cells)), shape=(num_rows, len(cells)))
    in_column = csr_array((ones, (columns, cells)), shape=(num_columns, len(cells)))
    least, most = np.floor(row_sums + num_columns * TINY), np.ceil(row_sums - num_columns * TINY)
    solution = linprog(
        -fractions[rows, columns] - 1e-3 * rng.random(len(cells)),
        A_ub=vstack([in_row, -in_row]), b_ub=np.concatenate([most, -least]),
        A_eq=in_column, b_eq=np.round(column_sums), bounds=(0, 1), method="highs-ds",
    )  # fmt: skip
    if not solution.success:
        raise RuntimeError(f"A table could not be rounded: {solution.message}")
    whole[rows, columns] += np.round(solution.x)
    return whole.astype(np.int64)
