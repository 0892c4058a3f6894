"""Secrets stay out of what is printed and written."""

import sys

import pytest

from bacl_platform.redaction import redacted
from bacl_platform.store import drivers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://me:pass@host:5000/x", "http://***@host:5000/x"),
        ("postgresql://me:p@ss@db/mlflow", "postgresql://***@db/mlflow"),
        ("get https://h/x?token=abc&page=2, please", "get https://h/x?token=***&page=2, please"),
        ("s3://b/k?X-Amz-Signature=12ab", "s3://b/k?X-Amz-Signature=***"),
        ("sqlite:////data/me@home/mlflow.db", "sqlite:////data/me@home/mlflow.db"),
        ("mail me@host about http://host/a@b", "mail me@host about http://host/a@b"),
    ],
)
def test_addresses_lose_their_secrets_and_nothing_else(text, expected):
    assert redacted(text) == expected


def test_drivers_note_has_no_password(store, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bacl", "run", "x.yaml", "--set", "a=https://me:sesame@h/x"])
    with drivers.driving(store):
        (driver,) = drivers.drivers(store)
        text = store.note(driver.note)
    assert driver.command == "bacl run x.yaml --set a=https://***@h/x"
    assert "sesame" not in text
