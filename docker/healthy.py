"""Exit 0 when the URL answers with success within 5 seconds, else 1: the healthchecks' command.

The slim image has neither curl nor wget.
"""

import sys
import urllib.request

if __name__ == "__main__":
    try:
        urllib.request.urlopen(sys.argv[1], timeout=5).close()
    except OSError as error:  # refused, timed out, or a status of 400 and above
        sys.exit(f"{sys.argv[1]}: {error}")
