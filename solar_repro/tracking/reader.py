"""Reads runs and their results from a tracking server, to which anybody may have written."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from solar_repro.errors import UserError, nearest
from solar_repro.safety.bounded_http import limit_requests
from solar_repro.safety.redact import one_line
from solar_repro.store.owner import folder_identity
from solar_repro.tracking.artifacts import ArtifactMissing, fetch_result, offered_digest
from solar_repro.tracking.server import (
    NOT_FOUND_CODES,
    artifact_errors,
    experiments,
    is_temporary,
    pages,
    server_uri,
)

_RUN_ID = re.compile(r"[\w-]{1,64}", re.ASCII)
_MOST_OF_A_KEY = 100
"""Most runs of one key that are looked at."""
_MAX_HISTORY_REQUESTS = 20  # each returns 25,000 points of a metric


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of a step."""

    run_id: str
    experiment_id: str
    model_id: str | None
    output: Path
    digest: str | None = None
    """Digest of the result that the run recorded (`result_digest`); None in a run of before."""
    made_by: str = "unknown"
    """Who made the result, as the run says."""

    def __str__(self) -> str:
        return f"run {self.run_id} (experiment {self.experiment_id}, made by {self.made_by})"


def conflicting_results(label: str, found: Sequence[Any]) -> str:
    """Return the message about runs that have different results of one step."""
    return (
        f"{label}: {len(found)} runs have different results of it: {', '.join(map(str, found[:4]))}; delete "
        "those that are wrong, or name the experiments that are accepted (-P tracking.experiments=NAME)"
    )


class Reader:
    """One command's view of a tracking server."""

    def __init__(self, client: MlflowClient, accepted: tuple[str, ...] = ()) -> None:
        """`accepted` names the experiments whose results are used; an empty tuple accepts all."""
        self.client = client
        self.accepted = accepted
        self._accepted = {self._experiment(name): name for name in accepted}

    def accepts(self, run: Run) -> bool:
        """Whether the results of a run are used: its experiment is among the accepted ones."""
        return not self._accepted or run.info.experiment_id in self._accepted

    def candidates(self, key: str) -> list[FinishedRun]:
        """Return the FINISHED runs with this key in the accepted experiments, newest first."""
        return [_finished(run) for run in self.runs_of(key)]

    def runs_of(self, key: str) -> list[Run]:
        """Return the same as MLflow runs; raises UserError if there are suspiciously many."""
        found = self.search(f"tags.`solar.key` = '{key}'", most=_MOST_OF_A_KEY + 1)
        if len(found) > _MOST_OF_A_KEY:
            raise UserError(
                f"key {key[:8]}: {server_uri()} has over {_MOST_OF_A_KEY} finished runs of it; delete those "
                "that are wrong, or name the experiments that are accepted (-P tracking.experiments=NAME)"
            )
        return [run for run in found if run.data.tags.get("solar.key") == key and self.accepts(run)]

    def knows(self, key: str) -> bool:
        """Whether any run has a key that begins so, even a run that was never closed."""
        return bool(self.search(f"tags.`solar.key` LIKE '{key}%'", most=1, status=None, everywhere=True))

    def has(self, run_id: str) -> bool:
        """Whether this server has a run of that id, which may be deleted."""
        return self._find(run_id) is not None

    def _find(self, run_id: str) -> Run | None:
        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in NOT_FOUND_CODES:
                raise
            return None

    def unfinished(self, key: str, output: Path) -> tuple[list[str], list[str]]:
        """Return unclosed runs of this key: ids of those that write to `output`, and machines of the others.

        Two machines may have the same host names and paths, so the identity of the folder decides.
        """
        ours, others = [], []
        here = str(output), folder_identity(output.parent)
        for run in self.search(f"tags.`solar.key` = '{key}'", status="RUNNING", everywhere=True):
            tags = run.data.tags
            if here[1] and (tags.get("solar.output"), tags.get("solar.store")) == here:
                ours.append(run.info.run_id)
            else:
                others.append(one_line(tags.get("solar.host", "another machine"))[:100])
        return ours, others

    def search(
        self,
        query: str = "",
        experiment: str | None = None,
        most: int = 50_000,
        status: str | None = "FINISHED",
        everywhere: bool = False,
    ) -> list[Run]:
        """Return the runs that match an MLflow filter, newest first, at most `most`.

        They come from the `experiment` that is named, else from the accepted ones, or from all
        (`everywhere`).
        """
        if experiment is not None:
            within: Iterable[Iterable[str]] = [[self._experiment(experiment)]]
        else:
            within = [self._accepted] if self._accepted and not everywhere else experiments(self.client)
        if status is not None:
            query = " and ".join(filter(None, [query, f"attributes.status = '{status}'"]))
        runs = [run for page in within for run in self._runs_in(list(page), query, most)]
        return sorted(runs, key=lambda run: run.info.end_time or 0, reverse=True)[:most]

    def _runs_in(self, ids: list[str], query: str, most: int) -> list[Run]:
        runs: list[Run] = []

        def ask(token: str | None) -> Any:
            return self.client.search_runs(
                ids,
                query,
                max_results=min(1000, most - len(runs)),
                order_by=["attributes.end_time DESC"],
                page_token=token,
            )

        for page in pages(ask, lambda run: run.info.run_id):
            # A run's id becomes part of a path, so only plain ones are accepted.
            runs += [run for run in page if _RUN_ID.fullmatch(run.info.run_id)]
            if len(runs) >= most:
                break
        return runs

    def history(self, run_id: str, metric: str) -> list[Metric]:
        """Return all logged values of a metric; raises UserError for more than a training logs."""
        with limit_requests(_MAX_HISTORY_REQUESTS):
            return self.client.get_metric_history(run_id, metric)

    def _experiment(self, name: str) -> str:
        """Return the id of the experiment of that name; raises UserError if it is missing or deleted."""
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "active":
            return found.experiment_id
        if found is not None:
            raise UserError(f"experiment {name!r}: it is deleted; restore it or name another")
        names = [other for page in experiments(self.client) for other in page.values()]
        alike = nearest(name, names, most=3) or sorted(names)[:10]
        raise UserError(
            f"experiment {name!r}: not on this tracking server; it has {len(names)} experiments, the nearest "
            f"names are: {', '.join(alike)}"
        )

    def offered(self, found: FinishedRun, key: str) -> str | None:
        """Return the `result_digest` of a finished run's artifacts.

        None if they hold no result with this key.

        Raises if that cannot be decided because of a lost connection or a missing library.
        """
        with _ignoring_missing():
            uri = self._artifacts(found)
            with artifact_errors(uri, "read"):
                return offered_digest(uri, key)
        return None

    def download(self, found: FinishedRun, destination: Path, stage: str) -> bool:
        """Fetch a finished step's folder from the server's artifacts; return False if it is not there.

        Raises if that cannot be decided because of a lost connection or a missing library, since the result
        may be weeks of work; and ManifestError for files that no such step leaves.
        """
        with _ignoring_missing():
            uri = self._artifacts(found)
            with artifact_errors(uri, "read"):
                fetch_result(uri, destination, stage)
            return True
        return False

    def _artifacts(self, found: FinishedRun) -> str:
        if found.model_id:
            return self.client.get_logged_model(found.model_id).artifact_location
        return f"{self.client.get_run(found.run_id).info.artifact_uri}/output"


@contextlib.contextmanager
def _ignoring_missing() -> Iterator[None]:
    """Ignore what is not on the server."""
    try:
        yield
    except ArtifactMissing:
        pass
    except MlflowException as error:
        if is_temporary(error):
            raise


def _finished(run: Run) -> FinishedRun:
    info, tags = run.info, run.data.tags
    who = f"{tags.get('solar.user', 'unknown')} on {tags.get('solar.host', 'unknown')}"
    return FinishedRun(
        info.run_id,
        info.experiment_id,
        tags.get("solar.model_id"),
        Path(tags.get("solar.output", "")),
        tags.get("solar.result"),
        one_line(who)[:200],
    )
