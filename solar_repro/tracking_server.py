"""The tracking server as a whole: whether it answers, what is said when it fails, and where its UI is."""

import contextlib
import os
import re
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from solar_repro.errors import Stopped, UserError
from solar_repro.redact import reason, redact, shown_uri

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""For requests that may fail: MLflow's own patience is some four minutes for each."""
UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's codes for an id that the server does not have, or that is none."""
_PAGE = 1000
_LOST_CODES = ("TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED")
_LOST = re.compile(r"API request to .* failed with (timeout |)exception|failed with error code (429|50[234])")


def connect() -> "MlflowClient":
    """A client of the tracking server, after one request has shown that it answers; else UserError."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient, get_tracking_uri
    from sqlalchemy.exc import SQLAlchemyError

    try:
        _try_data_base(get_tracking_uri())
        with impatient():
            client = MlflowClient()
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, OSError, ImportError, sqlite3.Error) as error:
        raise UserError(
            f"tracking server {server_uri()} does not answer ({reason(error)}); "
            "start it or set MLFLOW_TRACKING_URI"
        ) from None
    return client


def _try_data_base(uri: str) -> None:
    """Open the data base once; MLflow tries ten times, for two minutes, whatever the reason."""
    from mlflow.store.db.db_types import DATABASE_ENGINES
    from mlflow.store.db.utils import create_sqlalchemy_engine
    from sqlalchemy.engine import make_url

    kind = uri.partition(":")[0].partition("+")[0]
    if kind == "sqlite":
        named = make_url(uri).database or ""
        if named in ("", ":memory:") or named.startswith("file:"):
            return
        file = Path(named).absolute()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(file, timeout=0)) as data_base:
                data_base.execute(
                    "BEGIN IMMEDIATE"
                )  # finds out whether it can be written, and writes nothing
        except (OSError, sqlite3.Error) as error:
            if "locked" not in str(error):
                raise UserError(
                    f"tracking database {file}: cannot be written ({reason(error)}); "
                    "set MLFLOW_TRACKING_URI to one that can be written"
                ) from None
    elif kind in DATABASE_ENGINES:
        create_sqlalchemy_engine(uri).connect().close()


def server_uri() -> str:
    """The tracking server's URI without user, password and query."""
    from mlflow import get_tracking_uri

    return shown_uri(get_tracking_uri())


def can_go_on(error: BaseException) -> bool:
    """Whether the same command, given again, goes on where this error has ended it.

    It does after being asked to end, and where a connection was lost that comes back. What a server refuses
    it refuses again.
    """
    if isinstance(error, Stopped):
        return True
    import requests
    from mlflow.exceptions import MlflowException

    if isinstance(error, requests.HTTPError):
        return error.response is not None and error.response.status_code in (429, 502, 503, 504)
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return not isinstance(error, requests.exceptions.SSLError)
    if not isinstance(error, MlflowException):
        return False
    text = str(error)
    if "(sqlite3." in text:  # MLflow calls all that it says temporary
        return "locked" in text
    if "SSLError" in text or "too many 500 error" in text:
        return False
    return error.error_code in _LOST_CODES or bool(_LOST.search(text))


@contextlib.contextmanager
def explained(store: Path) -> Iterator[None]:
    """A server that is lost, or refuses, raises UserError: one line that says where finished results are."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        yield
    except (MlflowException, RequestException) as error:
        promise = ", and the same command registers them and continues from there" if can_go_on(error) else ""
        raise UserError(
            f"tracking server {server_uri()} failed ({reason(error)}); "
            f"finished results are kept in {store}{promise}"
        ) from None


@contextlib.contextmanager
def reaching(artifacts: str, doing: str) -> Iterator[None]:
    """What a kind of artifact store raises becomes UserError, but for a connection that was lost."""
    try:
        yield
    except (
        Exception
    ) as error:  # of boto3, a cloud's own client, the file system, or that one is not installed
        if can_go_on(error):
            raise
        raise UserError(
            f"artifact store {redact(artifacts)}: cannot be {doing} from this machine ({reason(error)}); "
            "name an experiment whose artifacts it can reach (MLFLOW_EXPERIMENT_NAME), or install what that "
            "store needs"
        ) from None


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Requests inside the block give up after seconds. MLflow takes this from the environment alone."""
    before = {name: os.environ.get(name) for name in _IMPATIENT}
    os.environ.update(_IMPATIENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def experiments(client: "MlflowClient") -> Iterator[dict[str, str]]:
    """All experiments that are not deleted, a thousand at a time: id → name."""
    token = None
    while True:
        # In the order they were made: one made meanwhile moves none to a page that was read.
        page = client.search_experiments(max_results=_PAGE, order_by=["experiment_id ASC"], page_token=token)
        yield {found.experiment_id: found.name for found in page}
        token = page.token
        if not token:
            return


def ui_address() -> str:
    """Where the MLflow UI answers: the tracking server, without a password, or where `mlflow ui` serves."""
    uri = server_uri()
    return uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"


def ui_command() -> str:
    """The command that shows the runs in a browser; of a server its address."""
    uri = server_uri()
    return ui_address() if uri.startswith("http") else f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
