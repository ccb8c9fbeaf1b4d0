"""Asks a served model over HTTP: `python export/rest_client.py MODEL SIGNATURE column=text ... [--host=localhost:8501] [--label=stable]`.

Needs `pip install requests`. A column may be repeated: its texts make the rows of one request. Prints the outputs as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import requests


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
        requests.HTTPError: the server refused; its reason is in the message.
        requests.RequestException: no answer.
    """
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
    if len({len(texts) for texts in columns.values()}) > 1:
        parser.error("every column must come equally often")
    return columns


def main() -> None:
    """Read the command line, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("signature")
    parser.add_argument("columns", nargs="+", metavar="column=text")
    parser.add_argument("--host", default="localhost:8501")
    parser.add_argument("--label", default="", help="stable or canary; default: the newest version that is loaded")
    arguments = parser.parse_args()
    columns = read_columns(parser, arguments.columns)
    try:
        with requests.Session() as session:
            answer = ask(session, arguments.host, arguments.model, arguments.signature, columns, arguments.label)
    except requests.HTTPError as error:
        sys.exit(f"error: {error}")
    except requests.RequestException as error:
        sys.exit(f"error: no answer from {arguments.host}: {error}")
    print(json.dumps(answer, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
