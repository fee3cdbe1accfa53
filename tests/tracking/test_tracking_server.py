"""What is said of a tracking server that fails, and when the same command is said to go on."""

import os

import pytest
import requests
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)

from solar_repro.errors import Stopped, UserError
from solar_repro.tracking.server import artifact_errors, connect, is_temporary, server_errors

LOST = "API request to http://h/api failed with"


def answered(status):
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(response=response)


@pytest.mark.parametrize(
    "error",
    [
        Stopped("stopped"),
        requests.ConnectionError("refused"),
        requests.Timeout("slow"),
        answered(503),
        MlflowException(f"{LOST} exception HTTPConnectionPool: Connection refused"),
        MlflowException(f"{LOST} timeout exception read timed out."),
        MlflowException("API request to endpoint /runs failed with error code 502 != 200"),
        MlflowException("(psycopg2.OperationalError) server closed the connection", TEMPORARILY_UNAVAILABLE),
        MlflowException("(sqlite3.OperationalError) database is locked", TEMPORARILY_UNAVAILABLE),
    ],
)
def test_the_same_command_goes_on_where_it_was_asked_to_end_or_a_connection_was_lost(error, tmp_path):
    assert is_temporary(error)
    if isinstance(error, Stopped):
        return
    with (
        pytest.raises(UserError, match="and the same command registers them and continues from there"),
        server_errors(tmp_path),
    ):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("Run with id=1 not found", RESOURCE_DOES_NOT_EXIST),
        MlflowException("The run must be in the 'active' state", INVALID_PARAMETER_VALUE),
        RestException({"error_code": "PERMISSION_DENIED", "message": "no"}),
        MlflowException("no", PERMISSION_DENIED),
        MlflowException("Unsupported scheme"),
        MlflowException(
            f"{LOST} exception Max retries exceeded (Caused by SSLError(CERTIFICATE_VERIFY_FAILED))"
        ),
        MlflowException(f"{LOST} exception Max retries exceeded (too many 500 error responses)"),
        MlflowException(
            "(sqlite3.OperationalError) attempt to write a readonly database", TEMPORARILY_UNAVAILABLE
        ),
        MlflowException("(sqlite3.OperationalError) database or disk is full", TEMPORARILY_UNAVAILABLE),
        requests.exceptions.InvalidURL("h:x"),
        answered(403),
    ],
)
def test_what_a_server_refuses_is_no_promise(error, tmp_path):
    assert not is_temporary(error)
    with pytest.raises(UserError) as said, server_errors(tmp_path):
        raise error
    assert str(said.value).endswith(f"finished results are kept in {tmp_path}")


def test_other_errors_are_none_of_the_servers(tmp_path):
    assert not is_temporary(ValueError("x"))
    with pytest.raises(ValueError, match="x"), server_errors(tmp_path):
        raise ValueError("x")


def not_a_data_base(folder):
    (folder / "x.db").write_text("no data base" * 100)
    return folder / "x.db"


def below_a_file(folder):
    (folder / "file").write_text("")
    return folder / "file" / "x.db"


@pytest.mark.parametrize("place", [not_a_data_base, below_a_file, lambda folder: "/proc/x.db"])
def test_a_data_base_that_cannot_be_written_is_said_at_once(place, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it is tried again"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{(file := place(tmp_path))}")
    with pytest.raises(UserError, match=rf"tracking database {file}: cannot be written \(.+\); set MLFLOW_"):
        connect()


def test_a_data_base_that_does_not_answer_is_said_at_once(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it is tried again"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://user:planted@127.0.0.1:9/mlflow")
    with pytest.raises(UserError, match=r"postgresql://127.0.0.1:9/mlflow does not answer") as said:
        connect()
    assert "planted" not in str(said.value)


def test_a_data_base_that_swallows_packets_is_not_waited_for_as_long_as_tcp_waits(monkeypatch):
    waits = []

    def create_sqlalchemy_engine(uri):
        waits.append(os.environ.get("PGCONNECT_TIMEOUT"))
        raise OSError("timed out")

    monkeypatch.setattr("mlflow.store.db.utils.create_sqlalchemy_engine", create_sqlalchemy_engine)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://192.0.2.1/mlflow")
    monkeypatch.delenv("PGCONNECT_TIMEOUT", raising=False)
    with pytest.raises(UserError, match="does not answer"):
        connect()
    assert waits == ["10"]
    assert "PGCONNECT_TIMEOUT" not in os.environ


@pytest.mark.parametrize(
    "error",
    [ModuleNotFoundError("No module named 'boto3'"), PermissionError(13, "denied"), RuntimeError("no")],
)
def test_an_artifact_store_that_cannot_be_reached_is_one_line(error):
    with (
        pytest.raises(
            UserError, match=r"artifact store s3://\*\*\*@bucket: cannot be written .+\(.+\); name an"
        ),
        artifact_errors("s3://user:key@bucket", "written"),
    ):
        raise error


def test_a_lost_connection_is_no_fault_of_the_artifact_store():
    with pytest.raises(requests.ConnectionError), artifact_errors("s3://bucket", "written"):
        raise requests.ConnectionError("refused")
