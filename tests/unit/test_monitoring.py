"""Dashboard and alerts ask for what exists: every metric and label in them is one that a process of ours serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY, Metric

import api.instruments
import sgg_store.instruments
import worker.instruments  # imported for what they register
from api.errors import ANSWERS
from sgg_store.database import Database
from sgg_store.errors import StorageFullError
from sgg_store.queue_metrics import QueueCollector

DOCKER = Path(__file__).parents[2] / "docker"
DASHBOARD = json.loads((DOCKER / "grafana" / "dashboards" / "sgg.json").read_text())
ALERTS = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())
PROMETHEUS = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
OWN_LABELS = {"job", "instance"}  # what Prometheus itself adds
QUERIES = [
    target["expr"].replace("$__rate_interval", "5m")
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", [])
]
EXPRESSIONS = [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]


def series_of(families: Iterator[Metric]) -> dict[str, set[str]]:
    """Names of the series that families are served as, with their labels."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
    return {
        family.name + suffix: {name for sample in family.samples for name in sample.labels}
        for family in families
        for suffix in suffixes.get(family.type, ("",))
    }


@pytest.fixture(scope="module")
def served(migrated_sqlite_file: Path) -> dict[str, set[str]]:
    """All series that our processes serve, with their labels."""
    for instrument, labels in (
        (api.instruments.REQUESTS, ("GET", "/", "200")),
        (api.instruments.LATENCY, ("GET", "/")),
        (sgg_store.instruments.DOORBELLS, ("rung",)),
        (sgg_store.instruments.ATTEMPTS_ENDED, ("lost", "lost")),
        (worker.instruments.STEP_SECONDS, ("tiny",)),
        (worker.instruments.TRIAL_SECONDS, ("chat", "answered")),
        (worker.instruments.GPU_MEMORY, ("used",)),
    ):
        instrument.labels(*labels)
    database = Database(f"sqlite:///{migrated_sqlite_file}")
    found = series_of(REGISTRY.collect()) | series_of(QueueCollector(database, 60).collect())
    database.dispose()
    return found | {"up": set()}


class Selectors(list[promql_parser.VectorSelector]):
    def visit(self, node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            self.append(node)
        for part in ("expr", "lhs", "rhs", "vector_selector", "param"):
            child = getattr(node, part, None)
            if isinstance(child, promql_parser.Expr | promql_parser.VectorSelector):
                self.visit(child)
        for child in getattr(node, "args", None) or ():
            self.visit(child)


def selectors(query: str) -> Selectors:
    found = Selectors()
    found.visit(promql_parser.parse(query))
    return found


@pytest.mark.parametrize("query", [*QUERIES, *EXPRESSIONS])
def test_a_query_is_sound_and_asks_for_what_is_served(query: str, served: dict[str, set[str]]) -> None:
    asked = selectors(query)
    assert asked
    for selector in asked:
        assert selector.name in served, f"{selector.name} is served by nobody"
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert labels <= served[selector.name] | OWN_LABELS


def test_every_metric_of_ours_is_on_the_dashboard(served: dict[str, set[str]]) -> None:
    shown = {selector.name for query in QUERIES for selector in selectors(query)}
    families = {name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name in served}
    ours = {name for name in families if name.startswith("sgg_")}
    assert {name for name in ours if not any(asked.startswith(name) for asked in shown)} == set()


def test_panels_have_titles_units_and_one_place_each() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    }
    assert len(places) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in panels)
    assert max(x for x, _ in places) < 24
    assert all(panel["title"] for panel in panels)
    assert all(panel["fieldConfig"]["defaults"]["unit"] for panel in panels if panel["type"] != "row")


def test_the_dashboard_asks_the_source_that_is_provided() -> None:
    path = DOCKER / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    [source] = yaml.safe_load(path.read_text())["datasources"]
    asked = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"] if panel["type"] != "row"}
    assert asked == {source["uid"]}


def test_an_alert_asks_for_the_answers_of_a_full_disk_which_readiness_does_not_see() -> None:
    [alert] = [rule for group in ALERTS["groups"] for rule in group["rules"] if rule["alert"] == "SggNoSpace"]
    asked = selectors(alert["expr"])
    assert {selector.name for selector in asked} == {"sgg_http_requests_total"}
    statuses = {matcher.value for selector in asked for matcher in selector.matchers.matchers}
    assert statuses == {str(ANSWERS[StorageFullError].status)}
    assert "for" not in alert  # a request now and then is enough


def test_alerts_say_what_to_do_and_speak_of_scraped_jobs() -> None:
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 5
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"] and rule["annotations"]["action"]
    named = {
        matcher.value
        for query in [*QUERIES, *EXPRESSIONS]
        for selector in selectors(query)
        for matcher in selector.matchers.matchers
        if matcher.name == "job"
    }
    assert named - {"sgg-.*"} <= {job["job_name"] for job in PROMETHEUS["scrape_configs"]}
