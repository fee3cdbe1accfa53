"""Runs of a tracking server, however many it has: those that match a filter, in one experiment or in all."""

import difflib
from typing import TYPE_CHECKING

from solar_repro.errors import UserError
from solar_repro.tracking_server import experiments

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


def search(
    client: "MlflowClient", query: str, experiment: str | None, most: int, status: str | None
) -> "list[Run]":
    """Runs that match an MLflow filter, newest first; in any experiment unless one is named.

    UserError where the named one is not there.
    """
    pages = experiments(client) if experiment is None else [[_experiment(client, experiment)]]
    if status is not None:
        query = " and ".join(filter(None, [query, f"attributes.status = '{status}'"]))
    runs = [run for page in pages for run in _runs_in(client, list(page), query, most)]
    return sorted(runs, key=lambda run: run.info.end_time or 0, reverse=True)[:most]


def _runs_in(client: "MlflowClient", ids: list[str], query: str, most: int) -> "list[Run]":
    runs: list[Run] = []
    token = None
    while len(runs) < most:
        page = client.search_runs(
            ids,
            query,
            max_results=min(1000, most - len(runs)),
            order_by=["attributes.end_time DESC"],
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            break
    return runs


def _experiment(client: "MlflowClient", name: str) -> str:
    """Id of the experiment of that name; UserError where there is none, or it is deleted."""
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "active":
        return found.experiment_id
    if found is not None:
        raise UserError(f"experiment {name!r}: it is deleted; restore it or name another")
    names = [other for page in experiments(client) for other in page.values()]
    nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or sorted(names)[:10]
    raise UserError(
        f"experiment {name!r}: not on this tracking server; it has {len(names)}, nearest: "
        f"{', '.join(nearest)}"
    )
