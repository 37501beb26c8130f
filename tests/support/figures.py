"""What a figure shows: the data behind its axes, not pixels."""

import numpy as np
from matplotlib.figure import Figure


def lines(figure: Figure) -> dict[str, np.ndarray]:
    """The points of the lines in a figure's first axes, [points, 2], by their label."""
    return {line.get_label(): line.get_xydata() for line in figure.axes[0].get_lines()}


def hollow_markers(figure: Figure) -> list[list[list[float]]]:
    """The points of the paper's markers in a figure's first axes."""
    drawn = [line for line in figure.axes[0].get_lines() if line.get_markerfacecolor() == "white"]
    return [line.get_xydata().tolist() for line in drawn if len(line.get_xydata())]


def dots(figure: Figure) -> list[np.ndarray]:
    """The points of each scatter in a figure's first axes, [points, 2], without empty ones."""
    return [points.get_offsets().data for points in figure.axes[0].collections if len(points.get_offsets())]


def legend_texts(figure: Figure) -> list[str]:
    """The texts of all legends of a figure."""
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    return [text.get_text() for legend in legends if legend for text in legend.get_texts()]


def x_labels(figure: Figure) -> list[str]:
    """The labels of the horizontal ticks in a figure's first axes."""
    return [text.get_text() for text in figure.axes[0].get_xticklabels()]


def check_nothing_is_clipped(figure: Figure) -> None:
    """Check that everything drawn is within the picture, and that no legend covers the points of a line."""
    figure.draw_without_rendering()
    box, whole = figure.get_tightbbox(), figure.bbox_inches
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1, figure.get_suptitle()
    assert whole.y0 <= box.y0 < box.y1 <= whole.y1, figure.get_suptitle()
    for axes in figure.axes:
        if axes.get_legend():
            covered = axes.get_legend().get_window_extent()
            for line in axes.get_lines():
                if line.get_transform() == axes.transData and len(line.get_xydata()):
                    points = axes.transData.transform(line.get_xydata())
                    assert not covered.count_contains(points[np.isfinite(points).all(axis=1)]), figure.get_suptitle()
