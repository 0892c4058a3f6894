"""Objects of an S3 bucket, as the store needs them: whole files, listings, conditional writes.

Requests are botocore's: it signs them, takes AWS_ENDPOINT_URL and credentials from where every
S3 tool does, and repeats them with growing pauses while the bucket cannot be reached.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from bacl.digests import BLOCK, sha256_of
from bacl.errors import RunError, UsageError

SCHEME = "s3://"
ATTEMPTS = 20
"""Attempts at a request: two to three minutes in all, which outlast an outage of a minute."""
_ABSENT = ("NoSuchKey", "404", "NotFound")
_REFUSED = ("PreconditionFailed", "ConditionalRequestConflict", *_ABSENT)


@dataclass(frozen=True)
class Object:
    """A small object: its content, its version and its age in seconds by the bucket's clock."""

    content: str
    etag: str
    age: float


class Bucket:
    """The objects below a prefix of a bucket; names are relative to it.

    All methods raise RunError with a sentence where the bucket cannot be reached or refuses.
    """

    def __init__(self, url: str) -> None:
        match = re.fullmatch(r"s3://([A-Za-z0-9._-]{3,255})(?:/(.*?))?/*", url)
        if match is None:
            raise UsageError(f"--store {url}: expected s3://BUCKET or s3://BUCKET/PREFIX")
        self.name, self.prefix = match[1], f"{match[2]}/" if match[2] else ""
        self.url = f"{SCHEME}{self.name}/{self.prefix}".rstrip("/")

    def __reduce__(self) -> tuple[type["Bucket"], tuple[str]]:
        return Bucket, (self.url,)  # clients cannot be pickled

    @functools.cached_property
    def _client(self) -> Any:
        return self._connect(ATTEMPTS)

    def _connect(self, attempts: int) -> Any:
        try:
            import boto3
            from botocore.config import Config
        except ImportError:
            raise RunError(
                f"--store {self.url}: expected boto3 to be installed: pip install 'bacl[s3]'"
            ) from None
        config = Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=5,
            # the store has digests of its own, and not every S3 server knows these
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        with self._errors_in_words():
            return boto3.client("s3", config=config)

    @contextlib.contextmanager
    def _errors_in_words(self) -> Iterator[None]:
        """Raise what boto3 raises within as a RunError of one sentence."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (Boto3Error, BotoCoreError, ClientError) as error:
            raise RunError(
                f"{self.url}: expected a bucket that can be reached, read and written: {error}"
            ) from error

    def check(self) -> None:
        """Try to list the bucket, with fewer attempts than other requests get."""
        client = self._connect(attempts=3)
        with self._errors_in_words():
            client.list_objects_v2(Bucket=self.name, Prefix=self.prefix, MaxKeys=1)

    def check_writable(self, name: str) -> None:
        """Try to write an object, which is removed again."""
        self.write(name, "")
        self.remove([name])

    def read(self, name: str) -> Object | None:
        """A small object, or None where there is none."""
        found = self._or_none(
            lambda: self._client.get_object(Bucket=self.name, Key=self.prefix + name), _ABSENT
        )
        if found is None:
            return None
        with self._errors_in_words():
            content = found["Body"].read().decode()
        now = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"])
        return Object(content, found["ETag"], (now - found["LastModified"]).total_seconds())

    def read_text(self, name: str) -> str | None:
        """The content of a small object, or None where there is none."""
        found = self.read(name)
        return None if found is None else found.content

    def write(self, name: str, text: str) -> None:
        """Write a small object."""
        with self._errors_in_words():
            self._client.put_object(Bucket=self.name, Key=self.prefix + name, Body=text.encode())

    def write_if(self, name: str, text: str, etag: str | None) -> str | None:
        """Write a small object if it is the version `etag`, or with None if there is none.

        The new version, or None where it was not so. A request that was repeated may be refused
        because its first attempt succeeded: read the object to know.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        key, body = self.prefix + name, text.encode()
        written = self._or_none(
            lambda: self._client.put_object(Bucket=self.name, Key=key, Body=body, **condition),
            _REFUSED,
        )
        return None if written is None else written["ETag"]

    def _or_none(self, request: Callable[[], Any], codes: Iterable[str]) -> Any:
        client = self._client  # says so if boto3 is missing
        with self._errors_in_words():
            try:
                return request()
            except client.exceptions.ClientError as error:
                if error.response["Error"]["Code"] in codes:
                    return None
                raise

    def sizes(self, prefix: str) -> dict[str, int]:
        """Bytes of all objects whose names begin with `prefix`."""
        found = {}
        with self._errors_in_words():
            for page in self._pages(prefix):
                for item in page.get("Contents", []):
                    found[item["Key"].removeprefix(self.prefix)] = item["Size"]
        return found

    def folders(self, prefix: str) -> list[str]:
        """What comes between `prefix` and the next slash in the names of objects."""
        found = []
        with self._errors_in_words():
            for page in self._pages(prefix, Delimiter="/"):
                found += [item["Prefix"] for item in page.get("CommonPrefixes", [])]
        return [name.removeprefix(self.prefix + prefix).rstrip("/") for name in found]

    def _pages(self, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        pages = self._client.get_paginator("list_objects_v2")
        return iter(pages.paginate(Bucket=self.name, Prefix=self.prefix + prefix, **options))

    def upload(self, path: Path, name: str) -> None:
        """Write a file, in parts and side by side where it is large."""
        with self._errors_in_words():
            self._client.upload_file(str(path), self.name, self.prefix + name)

    def download(self, name: str, path: Path) -> None:
        """Read an object into a file; its folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors_in_words():
            self._client.download_file(self.name, self.prefix + name, str(path))

    def copy(self, source: str, name: str) -> None:
        """Write an object with the content of another, which does not come here."""
        with self._errors_in_words():
            there = {"Bucket": self.name, "Key": self.prefix + source}
            self._client.copy(there, self.name, self.prefix + name)

    def sha256(self, name: str) -> str:
        """SHA-256 of an object, in hex, without keeping it."""
        with self._errors_in_words():
            body = self._client.get_object(Bucket=self.name, Key=self.prefix + name)["Body"]
            return sha256_of(body.iter_chunks(BLOCK))

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there are passed over."""
        with self._errors_in_words():
            for name in names:  # one by one: not every S3 server takes lists without Content-MD5
                self._client.delete_object(Bucket=self.name, Key=self.prefix + name)
