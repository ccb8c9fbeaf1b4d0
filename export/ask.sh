#!/bin/sh
# Asks a served model with curl alone: export/ask.sh [HOST:PORT]. Prints its state and three answers.
set -eu
server="http://${1:-localhost:8501}/v1/models/quickstart"
ask() { curl --silent --show-error --fail-with-body --max-time 30 --header 'Content-Type: application/json' --data "$2" "$server$1"; echo; }

curl --silent --show-error --fail --max-time 10 "$server"
# The columns: one list for each input.
ask /labels/stable:predict '{"signature_name": "sentiment", "inputs": {"text": ["The room was spotless.", "Never again."]}}'
# The rows: one object for each text; outputs come row by row too.
ask /labels/stable:predict '{"signature_name": "entailment", "instances": [{"premise": "A woman plays the violin.", "hypothesis": "Somebody makes music."}]}'
# Classify: examples with the task's columns.
ask /labels/stable:classify '{"signature_name": "sentiment/classify", "examples": [{"text": "The room was spotless."}]}'
