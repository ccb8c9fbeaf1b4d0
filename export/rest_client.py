"""Asks a served model over HTTP: `python export/rest_client.py MODEL SIGNATURE column=text ... [--host=localhost:8501]`.

Standard library only. Prints the server's answer as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request


def build_request(host: str, model: str, signature: str, columns: dict[str, str]) -> urllib.request.Request:
    """Return the request for one text (or pair) to one signature."""
    body = {"signature_name": signature, "inputs": {name: [text] for name, text in columns.items()}}
    return urllib.request.Request(
        f"http://{host}/v1/models/{model}:predict",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )


def main() -> None:
    """Read the command line, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("signature")
    parser.add_argument("columns", nargs="+", metavar="column=text")
    parser.add_argument("--host", default="localhost:8501")
    arguments = parser.parse_args()
    columns = dict(item.split("=", 1) for item in arguments.columns if "=" in item)
    if len(columns) < len(arguments.columns):
        parser.error("each input must be column=text")
    request = build_request(arguments.host, arguments.model, arguments.signature, columns)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            print(json.dumps(json.load(response), indent=1, ensure_ascii=False))
    except urllib.error.HTTPError as error:
        sys.exit(f"error: {error.code}: {error.read().decode(errors='replace')}")
    except OSError as error:
        sys.exit(f"error: no answer from {arguments.host}: {error}")


if __name__ == "__main__":
    main()
