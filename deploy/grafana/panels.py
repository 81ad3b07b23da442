"""The kinds of panels and variables that our dashboards are made of."""

from __future__ import annotations

from grafana_foundation_sdk.builders import common
from grafana_foundation_sdk.builders.dashboard import QueryVariable, ThresholdsConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.table import Panel as Table
from grafana_foundation_sdk.builders.timeseries import Panel as Timeseries
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="${datasource}")

Query = tuple[str, str]
"""PromQL, and the legend of its series."""


def _query(expression: str, legend: str = "") -> Dataquery:
    return Dataquery().datasource(PROMETHEUS).expr(expression).legend_format(legend)


def lines(
    title: str,
    description: str,
    queries: list[Query],
    *,
    unit: str = "short",
    stacked: StackingMode = StackingMode.NONE,
) -> Timeseries:
    panel = (
        Timeseries()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit(unit)
        .min(0)
        .span(8)
        .height(7)
        .line_width(1)
        .fill_opacity(0 if stacked == StackingMode.NONE else 30)
        .stacking(common.StackingConfig().mode(stacked).group("A"))
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    for letter, (expression, legend) in zip("ABCD", queries, strict=False):
        panel.with_target(_query(expression, legend).range().ref_id(letter))
    return panel


def stat(
    title: str,
    expression: str,
    *,
    unit: str = "short",
    red_above: float | None = None,
    red_below: float | None = None,
) -> Stat:
    steps = [Threshold(value=None, color="green")]
    if red_above is not None:
        steps.append(Threshold(value=red_above, color="red"))
    if red_below is not None:
        steps = [Threshold(value=None, color="red"), Threshold(value=red_below, color="green")]
    return (
        Stat()
        .title(title)
        .datasource(PROMETHEUS)
        .unit(unit)
        .span(3)
        .height(4)
        .thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_query(expression).instant().ref_id("A"))
    )


def table(title: str, expression: str, description: str, columns: list[str]) -> Table:
    asked = _query(expression).instant().format(PromQueryFormat.TABLE).ref_id("A")
    order = {name: place for place, name in enumerate(columns)}
    keep = {"include": {"names": columns}}
    return (
        Table()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .span(24 if title.startswith("Alerts") else 12)
        .height(5)
        .show_header(True)
        .with_target(asked)
        .with_transformation(DataTransformerConfig(id_val="filterFieldsByName", options=keep))
        .with_transformation(
            DataTransformerConfig(id_val="organize", options={"indexByName": order})
        )
    )


def choice(name: str, query: str) -> QueryVariable:
    """A template variable: any of the values that there are, or all."""
    return (
        QueryVariable(name)
        .label(name)
        .datasource(PROMETHEUS)
        .query({"query": query, "refId": name})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )
