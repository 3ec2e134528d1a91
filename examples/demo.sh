#!/usr/bin/env bash
# The whole way once: server, upload, job, watch, download, verify, predict. Every line of it works by hand too.
#   DEMO_DIR    where everything goes (default demo-data)
#   DEMO_STEPS  train this many steps (default 40, some minutes on two cores; 4 for a quick look)
set -euo pipefail
examples="$(cd "$(dirname "$0")" && pwd)"
home="${DEMO_DIR:-demo-data}"
mkdir -p "$home"
home="$(cd "$home" && pwd)"
base_model=smollm2-135m-instruct

headline() { printf '\n== %s\n' "$*"; }
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
server=
stop_server() {
    if [[ -n "$server" ]]; then
        kill -TERM "$server" 2>/dev/null || true
        wait "$server" || true
        server=
    fi
}
trap stop_server EXIT

headline "Starting a server on a free port"
export SGG_DATA_DIR="$home/server"
unset SGG_API_KEY # the key comes from the data directory
rm -f "$home/server.json" # an earlier demo's, which would be read before the new one is there
sgg serve --port 0 --json >"$home/server.json" 2>"$home/server.log" &
server=$!
until [[ -s "$home/server.json" ]]; do
    kill -0 "$server" 2>/dev/null || { cat "$home/server.log" >&2; exit 1; }
    sleep 0.1
done
SGG_BASE_URL="$(field url <"$home/server.json")"
export SGG_BASE_URL
echo "$SGG_BASE_URL"

headline "Checking and uploading the support tickets"
sgg files check "$examples/support_tickets.train.jsonl" --validation "$examples/support_tickets.valid.jsonl"
training="$(sgg files upload "$examples/support_tickets.train.jsonl" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["id"])')"
validation="$(sgg files upload "$examples/support_tickets.valid.jsonl" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["id"])')"
sgg files list

headline "Training with structured gradient guidance on $base_model"
job="$(sgg jobs submit --model "$base_model" --train "$training" --validation "$validation" \
    --set "optimization.max_steps=${DEMO_STEPS:-40}" --set evaluation.every_steps=20 --suffix demo --json | field id)"
sgg jobs watch "$job"

headline "Downloading the adapter and verifying every file"
adapter="$home/adapters/$job"
sgg jobs download "$job" --out "$adapter"

headline "Predicting three new tickets"
sgg predict "$adapter" \
    --text "I was billed two times for the same month, please give one payment back" \
    --text "The app closes by itself whenever I open the settings page" \
    --text "My parcel should have arrived last Tuesday and nobody can tell me where it is"

stop_server
headline "Everything is here"
echo "  adapter          $adapter"
echo "  its model card   $adapter/README.md"
echo "  its figures      $adapter/report.json and $adapter/plots/"
echo "  the server's     $SGG_DATA_DIR (start it again: sgg serve --data-dir $SGG_DATA_DIR)"
