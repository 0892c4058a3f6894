import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from outside import DOCKER, Compose, free_port, postgres_binary, run, running, wait_for


@pytest.fixture
def compose(tmp_path: Path) -> Compose:
    """The compose file with newly made secrets."""
    shutil.copy(DOCKER / "make_env.py", tmp_path)
    subprocess.run([sys.executable, tmp_path / "make_env.py"], check=True, timeout=30)
    return Compose(tmp_path)


@pytest.fixture
def postgres(compose: Compose) -> Iterator[dict[str, str]]:
    """A PostgreSQL set up as the image does; its address as libpq's variables."""
    initdb, server = (postgres_binary(name) for name in ("initdb", "postgres"))
    asked = compose.environment("postgres")
    user = "nobody" if os.geteuid() == 0 else None  # the server refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="bacl-pg-", dir="/tmp"))
    port = free_port()
    log = folder / "log"
    address = {"PGHOST": "127.0.0.1", "PGPORT": str(port)}
    try:
        (folder / "password").write_text(asked["POSTGRES_PASSWORD"])
        if user:
            shutil.chown(folder, user)
            shutil.chown(folder / "password", user)
        data = str(folder / "data")
        initialise = [initdb, f"--username={asked['POSTGRES_USER']}", "--pwfile=password"]
        initialise += ["--auth=scram-sha-256", "--no-sync", "-D", data]
        with running(initialise, {}, folder / "initdb.log", user) as process:
            assert process.wait(timeout=60) == 0, (folder / "initdb.log").read_text()
        serve = [server, "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", "", "-F"]
        with running(serve, {}, log, user) as process:
            check = compose.healthcheck("postgres")
            wait_for(lambda: run(check, address).returncode == 0, "PostgreSQL", log, process)
            login = address | {
                "PGUSER": asked["POSTGRES_USER"],
                "PGPASSWORD": asked["POSTGRES_PASSWORD"],
            }
            create = f"CREATE DATABASE {asked['POSTGRES_DB']}"
            made = run(["psql", "-d", "postgres", "-c", create], login)
            assert made.returncode == 0, made.stderr
            yield address
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def s3(compose: Compose) -> Iterator[None]:
    """An S3 server over HTTP where the compose file's clients look for one."""
    port = compose.ports["7070"]
    log = compose.folder / "s3.log"
    serve = shlex.split(f"moto_server --host 127.0.0.1 --port {port}")
    with running(serve, {}, log) as process:
        check = [sys.executable, "docker/healthy.py", f"http://127.0.0.1:{port}/moto-api/"]
        wait_for(lambda: run(check, {}).returncode == 0, "moto's server", log, process)
        yield
