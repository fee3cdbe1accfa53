"""The tracking server itself: whether it answers, messages about its failures, and where its UI is."""

import contextlib
import os
import re
import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solar_repro.errors import Stopped, UserError
from solar_repro.safety.redact import redact, short_reason, shown_uri

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_SHORT_TIMEOUTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "PGCONNECT_TIMEOUT": "10",
}
"""Short timeouts for requests that may fail; MLflow's default is about four minutes for each."""
NOT_FOUND_CODES = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's error codes for an id that the server does not have or that is malformed."""
_PAGE = 1000
MAX_PAGES = 1000
"""Most pages of one answer; with MAX_QUERY_SECONDS it stops a server that always names a next page."""
MAX_QUERY_SECONDS = 1800.0
_LOST_CODES = ("TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED")
_LOST = re.compile(r"API request to .* failed with (timeout |)exception|failed with error code (429|50[234])")


def connect() -> "MlflowClient":
    """Return a client of the tracking server after one request succeeded; raises UserError otherwise."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient, get_tracking_uri
    from sqlalchemy.exc import SQLAlchemyError

    from solar_repro.safety.bounded_http import install

    install()
    try:
        with short_timeouts():
            _try_data_base(get_tracking_uri())
            client = MlflowClient()
            if get_tracking_uri().startswith("http"):
                client = _CheckedClient(client)
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, OSError, ImportError, sqlite3.Error) as error:
        raise UserError(
            f"tracking server {server_uri()} does not answer ({short_reason(error)}); "
            "start it or set MLFLOW_TRACKING_URI"
        ) from None
    return client


class _CheckedClient:
    """A client that raises MlflowException for answers that are not MLflow's."""

    def __init__(self, client: "MlflowClient") -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def ask(*given: Any, **named: Any) -> Any:
            with checked_answers():
                return method(*given, **named)

        return ask


@contextlib.contextmanager
def checked_answers() -> Iterator[None]:
    """Turn what MLflow's client raises for a malformed answer into MlflowException."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        yield
    except (MlflowException, RequestException, OSError, ImportError):
        raise
    except Exception as error:  # protobuf and json raise their own errors, other code whatever it meets
        what = f"{type(error).__name__}: {error}"
        raise MlflowException(f"the server's answer is malformed ({what[:300]})") from error


def _try_data_base(uri: str) -> None:
    """Open the database once; MLflow would try ten times, for two minutes, whatever the reason."""
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
                    f"tracking database {file}: cannot be written ({short_reason(error)}); "
                    "set MLFLOW_TRACKING_URI to one that can be written"
                ) from None
    elif kind in DATABASE_ENGINES:
        create_sqlalchemy_engine(uri).connect().close()


def server_uri() -> str:
    """Return the tracking server's URI without user, password and query."""
    from mlflow import get_tracking_uri

    return shown_uri(get_tracking_uri())


def is_temporary(error: BaseException) -> bool:
    """Whether the same command, given again, can continue after this error.

    It can after a stop request and after a lost connection. A request that the server refused is refused
    again.
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
    if "is larger than" in text or "page after page" in text:  # `bounded_http` has cut it
        return False
    if "(sqlite3." in text:  # MLflow calls all errors of SQLite temporary
        return "locked" in text
    if "SSLError" in text or "too many 500 error" in text:
        return False
    return error.error_code in _LOST_CODES or bool(_LOST.search(text))


@contextlib.contextmanager
def server_errors(store: Path) -> Iterator[None]:
    """Turn failures of the server into a UserError of one line that says where finished results are kept."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        yield
    except (MlflowException, RequestException) as error:
        promise = (
            ", and the same command registers them and continues from there" if is_temporary(error) else ""
        )
        raise UserError(
            f"tracking server {server_uri()} failed ({short_reason(error)}); "
            f"finished results are kept in {store}{promise}"
        ) from None


@contextlib.contextmanager
def artifact_errors(artifacts: str, doing: str) -> Iterator[None]:
    """Turn what an artifact store raises into UserError, except a lost connection."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each kind of artifact store raises its own client's errors
        if is_temporary(error):
            raise
        raise UserError(
            f"artifact store {redact(artifacts)}: cannot be {doing} from this machine "
            f"({short_reason(error)}); name an experiment whose artifacts it can reach "
            "(MLFLOW_EXPERIMENT_NAME), or install what that store needs"
        ) from None


@contextlib.contextmanager
def short_timeouts() -> Iterator[None]:
    """Make requests inside the block give up within seconds, through the environment that MLflow reads."""
    before = {name: os.environ.get(name) for name in _SHORT_TIMEOUTS}
    os.environ.update(_SHORT_TIMEOUTS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def pages(ask: "Callable[[str | None], Any]", name: "Callable[[Any], str]") -> Iterator[Any]:
    """Yield the pages of an answer; `ask` takes a page's token and returns that page.

    `name` returns what identifies an item. Raises UserError if a page holds only items of earlier pages, or
    if there are more than MAX_PAGES pages or MAX_QUERY_SECONDS have passed.
    """
    seen: set[str] = set()
    token, until = None, time.monotonic() + MAX_QUERY_SECONDS
    for _ in range(MAX_PAGES):
        page = ask(token)
        yield page
        names = set(map(name, page))
        token = page.token
        if not token:
            return
        if names <= seen or time.monotonic() > until:
            break
        seen |= names
    raise UserError(
        f"tracking server {server_uri()}: gives page after page without end; set MLFLOW_TRACKING_URI to "
        "another, or ask who runs it"
    )


def experiments(client: "MlflowClient") -> Iterator[dict[str, str]]:
    """Yield all experiments that are not deleted, a thousand at a time, as id → name."""

    def ask(token: str | None) -> Any:
        # In order of creation, a new experiment moves no other to a page that was read already.
        return client.search_experiments(max_results=_PAGE, order_by=["experiment_id ASC"], page_token=token)

    for page in pages(ask, lambda found: found.experiment_id):
        yield {found.experiment_id: found.name for found in page}


def ui_address() -> str:
    """Return the URL of the MLflow UI: the tracking server without password, or where `mlflow ui` serves."""
    uri = server_uri()
    return uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"


def ui_command() -> str:
    """Return the command that shows the runs in a browser, or the URL of a tracking server."""
    uri = server_uri()
    return ui_address() if uri.startswith("http") else f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
