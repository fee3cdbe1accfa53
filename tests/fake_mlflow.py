"""A tracking server in memory, for what the client asks of it before and after the work."""

import re
from types import SimpleNamespace

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST
from mlflow.store.entities import PagedList


def unknown(what):
    return MlflowException(f"{what} not found", RESOURCE_DOES_NOT_EXIST)


class FakeClient:
    """Holds experiments and runs as MLflow's client gives them, a page at a time."""

    def __init__(self, names=("Default",)):
        self.experiments = {}
        self.runs = {}
        for name in names:
            self.create_experiment(name)

    def create_experiment(self, name):
        if self.get_experiment_by_name(name):
            raise MlflowException("it is there", RESOURCE_ALREADY_EXISTS)
        number = str(len(self.experiments))
        self.experiments[number] = SimpleNamespace(
            experiment_id=number, name=name, lifecycle_stage="active", tags={}
        )
        return number

    def set_experiment_tag(self, number, name, value):
        self.get_experiment(number).tags[name] = value

    def get_experiment(self, number):
        if number not in self.experiments:
            raise unknown(number)
        return self.experiments[number]

    def get_experiment_by_name(self, name):
        return next((found for found in self.experiments.values() if found.name == name), None)

    def search_experiments(self, max_results=1000, order_by=None, page_token=None):
        active = [found for found in self.experiments.values() if found.lifecycle_stage == "active"]
        return _page(active, max_results, page_token)

    def create_run(self, experiment, tags=None, run_name="", status="RUNNING", end_time=None):
        info = SimpleNamespace(
            run_id=f"run{len(self.runs)}",
            experiment_id=experiment,
            status=status,
            lifecycle_stage="active",
            end_time=end_time,
            run_name=run_name,
            artifact_uri="/nowhere",
        )
        data = SimpleNamespace(tags=dict(tags or {}), params={}, metrics={})
        run = self.runs[info.run_id] = SimpleNamespace(info=info, data=data)
        return run

    def get_run(self, run_id):
        if run_id not in self.runs:
            raise unknown(run_id)
        return self.runs[run_id]

    def set_tag(self, run_id, name, value):
        self.get_run(run_id).data.tags[name] = value

    def update_run(self, run_id, status):
        self.get_run(run_id).info.status = status

    def delete_tag(self, run_id, name):
        del self.get_run(run_id).data.tags[name]

    def search_runs(self, experiments, query="", max_results=1000, order_by=None, page_token=None):
        found = [
            run
            for run in self.runs.values()
            if run.info.experiment_id in experiments
            and run.info.lifecycle_stage == "active"
            and all(_holds(run, part) for part in query.split(" and ") if part)
        ]
        return _page(sorted(found, key=lambda run: -(run.info.end_time or 0)), max_results, page_token)


def _page(items, most, token):
    start = int(token or 0)
    rest = start + most
    return PagedList(items[start:rest], str(rest) if rest < len(items) else None)


def _holds(run, part):
    name, how, value = re.fullmatch(r"(\S+) (=|LIKE) '(.*)'", part).groups()
    if name == "attributes.status":
        return run.info.status == value
    tag = run.data.tags.get(name.removeprefix("tags.").strip("`"), "")
    return tag == value if how == "=" else bool(re.fullmatch(value.replace("%", ".*"), tag))
