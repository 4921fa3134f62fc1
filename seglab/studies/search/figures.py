"""Optuna's own figures of a search: one interactive page that needs no network, and PNGs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState, create_trial

from seglab.core.documents import fill_template
from seglab.figures.style import BLUE, VERMILLION, log_axis, tidy, unit
from seglab.studies.queue import ENDED, Queue

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COSTS: Final[Mapping[str, str]] = {
    "train_seconds": "training time, s",
    "parameters": "network parameters, millions",
}
"""What the axis of each second objective says."""
DICE: Final = "validation Dice"
SCALE: Final = ("rgb(158, 202, 225)", "rgb(8, 48, 107)")
"""Colours that all show on white; Optuna's own scale starts at white."""
MARGIN: Final = {"l": 60, "r": 40, "t": 60, "b": 60}
FEWEST_JUDGED: Final = 4
"""Complete trials below which no importance of a parameter is told."""


def ended_trials(queue: Queue) -> dict[int, FrozenTrial]:
    """The trials that ended: one an item, by its number."""
    return {int(key): one.last for key, one in queue.states().items() if one.word in ENDED}


def ended_study(queue: Queue) -> optuna.Study:
    """Copy the trials that ended to a study in memory, numbered as their items are."""
    ended = ended_trials(queue)
    study = optuna.create_study(directions=queue.study.directions)
    for number in range(max(ended, default=-1) + 1):
        study.add_trial(ended.get(number) or create_trial(state=TrialState.WAITING))
    return study


def search_page(
    study: optuna.Study, name: str, base: float | None, second: str = "none", notice: str = ""
) -> str:
    """Return a page of interactive figures with everything inside it.

    ``base`` is the validation Dice of the base config, drawn as a line, ``second`` a key of
    :data:`COSTS` or ``none``, ``notice`` what must be known of the data.
    """
    figures = [
        figure.update_layout(margin=MARGIN, template="plotly_white").to_html(
            full_html=False,
            include_plotlyjs=place == 0,
            default_height=460,
            config={"responsive": True, "displayModeBar": False},
        )
        for place, figure in enumerate(_interactive(study, base, second))
    ]
    values = {"name": name, "notice": notice, "figures": figures}
    return fill_template("seglab.studies.search", "search.html", **values)


def _interactive(study: optuna.Study, base: float | None, second: str) -> Iterator[Any]:
    from optuna import visualization as draw
    from plotly.colors import sample_colorscale

    target = _target(study)
    history = draw.plot_optimization_history(study, **target)
    if base is not None:
        history.add_hline(base, line_dash="dash", line_color="grey", annotation_text="base config")
    numbers, values = _pruned(study)
    if numbers:
        look = {"symbol": "circle-open", "color": "grey"}
        history.add_scatter(x=numbers, y=values, mode="markers", marker=look, name="pruned")
    yield history.update_layout(title="Dice of the trials", showlegend=True)
    if second != "none":
        front = draw.plot_pareto_front(study, target_names=[DICE, COSTS[second]])
        yield front.update_traces(marker_line={"width": 1.5, "color": "grey"})
    keys = _searched(study)
    if keys:
        lines = draw.plot_parallel_coordinate(study, params=keys, **target)
        for line in lines.select_traces({"mode": "lines"}):  # y[0] is the Dice, from 0 to 1
            line.update(line_color=sample_colorscale(SCALE, line.y[0])[0], opacity=1)
        marks = {"marker_colorscale": SCALE, "marker_reversescale": False}
        yield lines.update_traces(marks, {"mode": "markers"})
        for start in range(0, len(keys), 2):
            slices = draw.plot_slice(study, params=keys[start : start + 2], **target)
            yield slices.update_traces(marks)
    if keys and _may_judge(study):
        yield draw.plot_param_importances(study, **_importance())
    yield draw.plot_intermediate_values(study).update_layout(
        title="Learning curves", xaxis_title="epoch", yaxis_title=DICE, showlegend=True
    )
    yield draw.plot_timeline(study)


def pictures(study: optuna.Study, base: float | None) -> Iterator[tuple[str, Figure]]:
    """Draw the PNGs of a search, each with its name: history, importance, slices."""
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as draw

    with plt.rc_context({"figure.constrained_layout.use": True}):  # Optuna sets a style too
        yield "history", _sized(_history(study, base), 4, "Dice of the trials")
        keys = _searched(study)
        if keys and _may_judge(study):
            bars: Any = draw.plot_param_importances(study, **_importance())
            for bar in bars.patches:
                bar.set_color(unit(BLUE))
            bars.get_legend().remove()
            title = "Importance of the parameters, by PED-ANOVA"
            yield "importance", _sized(bars, 1.5 + 0.4 * len(keys), title)
        for start in range(0, len(keys), 3):
            panels: Any = draw.plot_slice(study, params=keys[start : start + 3], **_target(study))
            np.ravel(panels)[0].figure.suptitle("")
            yield f"slices-{1 + start // 3}", _sized(panels, 4)
        plt.close("all")


def _history(study: optuna.Study, base: float | None) -> Any:
    """Draw the Dice of every trial that ended, pruned ones as rings."""
    from optuna.visualization import matplotlib as draw

    axes = draw.plot_optimization_history(study, **_target(study))
    axes.collections[0].set_color(unit(BLUE))
    for line in axes.lines:
        line.set(color=unit(VERMILLION), label="best so far")
    pruned = _pruned(study)
    if pruned[0]:
        axes.scatter(*pruned, color="none", edgecolor="grey", linewidth=1.5, label="pruned")
    if base is not None:
        axes.axhline(base, color="grey", linestyle="--", label="base config")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.15), ncols=4, frameon=False)
    return axes


def _pruned(study: optuna.Study) -> tuple[list[int], list[float]]:
    """Number and last Dice of the pruned trials."""
    pruned = [one for one in study.trials if one.state == TrialState.PRUNED and one.values]
    return [one.number for one in pruned], [one.values[0] for one in pruned]


def _sized(axes: Any, height: float, title: str = "") -> Figure:
    """Give a figure of Optuna's 8 inches and the look of the report's other pictures."""
    panels: Any = np.ravel(axes)
    for panel in panels:
        if panel.get_xscale() == "log":
            log_axis(panel)
        panel.set_title("")
        tidy(panel, x=panel.get_xlabel(), y=panel.get_ylabel(), title=title)
        panel.set_facecolor("white")
        panel.spines[["left", "bottom"]].set_color("black")
        panel.tick_params(colors="black")
        for label in (panel.xaxis.label, panel.yaxis.label):
            label.set(color="black", fontsize=10)
        panel.tick_params(axis="x", labelrotation=30 if len(panels) > 1 else 0)
    figure: Figure = panels[0].figure
    figure.set_size_inches(8, height)
    return figure


def _target(study: optuna.Study) -> dict[str, Any]:
    """Dice by name; it is chosen where there are two objectives."""
    two = len(study.directions) > 1
    return {"target_name": DICE, **({"target": lambda trial: trial.values[0]} if two else {})}


def _importance() -> dict[str, Any]:
    # PED-ANOVA asks what makes a value low.
    return {
        "evaluator": PedAnovaImportanceEvaluator(),
        "target": lambda trial: -trial.values[0],
        "target_name": f"{DICE}, by PED-ANOVA",
    }


def _may_judge(study: optuna.Study) -> bool:
    complete = _complete(study)
    return len(complete) >= FEWEST_JUDGED and len({trial.values[0] for trial in complete}) > 1


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _searched(study: optuna.Study) -> list[str]:
    """Parameters that took more than one value in complete trials."""
    values: dict[str, set[Any]] = {}
    for trial in _complete(study):
        for key, value in trial.params.items():
            values.setdefault(key, set()).add(value)
    return [key for key, found in values.items() if len(found) > 1]
