# From a file to an adapter with curl. SGG_BASE_URL and SGG_API_KEY say where the server is and who you are.
auth="Authorization: Bearer $SGG_API_KEY"
id() { python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])'; }

training=$(curl -fsS "$SGG_BASE_URL/files" -H "$auth" -F purpose=fine-tune -F file=@examples/support_tickets.train.jsonl | id)

job=$(curl -fsS "$SGG_BASE_URL/fine_tuning/jobs" -H "$auth" -H "Content-Type: application/json" -d '{
  "model": "all-minilm-l6-v2",
  "training_file": "'"$training"'",
  "method": {"type": "sgg", "sgg": {"hyperparameters": {"max_steps": 4, "guidance": {"radius": 0.02}}}}
}' | id)

until curl -fsS "$SGG_BASE_URL/fine_tuning/jobs/$job" -H "$auth" | grep -E '"status": ?"(succeeded|failed|cancelled)"'; do sleep 1; done
curl -fsS "$SGG_BASE_URL/fine_tuning/jobs/$job/events?limit=5" -H "$auth"
