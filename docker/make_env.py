"""Write the secrets of the compose cluster, once: `python docker/make_env.py`.

Two files beside compose.yaml, readable by their owner alone and ignored by git:

- `.env`: what `docker compose` reads;
- `client.env`: what a shell on this machine needs to submit jobs and open runs:
  `set -a; source docker/client.env; set +a`.

Needs nothing but Python 3.10.
"""

import os
import secrets
import sys
from pathlib import Path


def cluster_secrets() -> dict[str, str]:
    """New random secrets by the name that compose.yaml gives them, of 128 bits or more each.

    The prefix keeps a shell's own AWS_* or RAY_* variables, which Compose would prefer to the
    file's, out of the cluster.
    """
    return {
        "BACL_RAY_TOKEN": secrets.token_hex(32),
        "BACL_POSTGRES_PASSWORD": secrets.token_hex(16),
        "BACL_S3_ACCESS_KEY": secrets.token_hex(10),
        "BACL_S3_SECRET_KEY": secrets.token_hex(20),
        "BACL_MLFLOW_PASSWORD": secrets.token_hex(16),
        "BACL_MLFLOW_SESSION_KEY": secrets.token_hex(32),
    }


def client(of: dict[str, str]) -> dict[str, str]:
    """The environment of a client on the cluster's machine, from the secrets of its `.env`."""
    return {
        "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:8265",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": of["BACL_RAY_TOKEN"],
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": of["BACL_MLFLOW_PASSWORD"],
        "AWS_ENDPOINT_URL": "http://127.0.0.1:7070",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": of["BACL_S3_ACCESS_KEY"],
        "AWS_SECRET_ACCESS_KEY": of["BACL_S3_SECRET_KEY"],
    }


def write(path: Path, variables: dict[str, str]) -> None:
    """Create `path` with mode 0600; raises FileExistsError where there is one."""
    # O_EXCL with the mode: at no moment can another user read it, and nothing is overwritten
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(f"{name}={value}\n" for name, value in variables.items())


def main(folder: Path) -> None:
    """Write both files into `folder`, or neither where one is there."""
    environment, clients = folder / ".env", folder / "client.env"
    for path in (environment, clients):
        if path.exists():
            sys.exit(
                f"{path}: expected no such file: its secrets are those of a cluster whose volumes "
                "know them; remove the volumes (docker compose down -v), then both .env files"
            )
    variables = cluster_secrets()
    write(environment, variables)
    write(clients, client(variables))
    print(f"wrote {environment} and {clients}")


if __name__ == "__main__":
    main(Path(__file__).resolve().parent)
