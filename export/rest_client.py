"""Asks a served model over HTTP: `python export/rest_client.py MODEL SIGNATURE column=text ... [--host=localhost:8501] [--label=stable]`.

Needs `pip install requests`. A column may be repeated: its texts make the rows of one request. Prints the outputs as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import requests


def check_rows(columns: dict[str, list[str]]) -> None:
    """Refuse a request without rows, which a server that batches never answers, and columns of unequal length.

    Raises:
        ValueError: with the reason.
    """
    sizes = {name: len(texts) for name, texts in columns.items()}
    if not sizes or 0 in sizes.values():
        raise ValueError(f"a request must hold at least one text for each column; received {sizes}")
    if len(set(sizes.values())) > 1:
        raise ValueError(f"every column must hold the same number of texts; received {sizes}")


def ask(
    session: requests.Session,
    host: str,
    model: str,
    signature: str,
    columns: dict[str, list[str]],
    label: str = "",
    timeout: float = 30,
) -> dict[str, Any]:
    """Return the outputs of a signature by name, a list of rows each.

    Raises:
        ValueError: the request has no rows, or columns of unequal length; nothing is sent.
        requests.HTTPError: the server refused; its reason is in the message.
        requests.RequestException: no answer within `timeout` seconds.
    """
    check_rows(columns)
    place = f"{model}/labels/{label}" if label else model
    body = {"signature_name": signature, "inputs": columns}
    response = session.post(f"http://{host}/v1/models/{place}:predict", json=body, timeout=timeout)
    if not response.ok:
        raise requests.HTTPError(f"{response.status_code}: {' '.join(response.text.split())}", response=response)
    outputs = response.json()["outputs"]
    # A signature of one output comes without its name.
    return outputs if isinstance(outputs, dict) else {"output": outputs}


def read_columns(parser: argparse.ArgumentParser, words: list[str]) -> dict[str, list[str]]:
    """Return the texts by column."""
    columns: dict[str, list[str]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            parser.error(f"{word!r}: each input must be column=text")
        columns.setdefault(name, []).append(text)
    try:
        check_rows(columns)
    except ValueError as error:
        parser.error(str(error))
    return columns


def main() -> None:
    """Read the command line, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("signature")
    parser.add_argument("columns", nargs="+", metavar="column=text")
    parser.add_argument("--host", default="localhost:8501")
    parser.add_argument("--label", default="", help="stable or canary; default: the newest version that is loaded")
    parser.add_argument("--timeout", type=float, default=30, help="seconds to wait for the answer")
    arguments = parser.parse_args()
    columns = read_columns(parser, arguments.columns)
    try:
        with requests.Session() as session:
            answer = ask(
                session,
                arguments.host,
                arguments.model,
                arguments.signature,
                columns,
                arguments.label,
                arguments.timeout,
            )
    except requests.HTTPError as error:
        sys.exit(f"error: {error}")
    except requests.RequestException as error:
        sys.exit(f"error: no answer from {arguments.host}: {error}")
    print(json.dumps(answer, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
