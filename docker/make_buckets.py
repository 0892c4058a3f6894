"""Make buckets where they are not there: `python docker/make_buckets.py NAME...`.

The endpoint and the keys are boto3's own: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION.
"""

import os
import sys

import boto3
from botocore.exceptions import BotoCoreError, ClientError


def main(names: list[str]) -> None:
    """Make each bucket that does not exist; exits with one sentence where the server refuses."""
    s3 = boto3.client("s3")
    for name in names:
        try:
            if name not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
                s3.create_bucket(Bucket=name)
                print(f"made bucket {name}")
        except (BotoCoreError, ClientError) as error:
            where = os.environ.get("AWS_ENDPOINT_URL", "AWS")
            sys.exit(f"bucket {name}: expected {where} to list and make buckets: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
