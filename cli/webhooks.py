"""`sgg webhooks`: who is told of jobs, and what became of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.client import Client
from cli.output import JsonFlag, moment, print_json, print_table, say

app = typer.Typer(help="Webhooks: add, list, rotate, remove, deliveries, resend.", no_args_is_help=True)

EndpointId = Annotated[str, typer.Argument(metavar="ENDPOINT_ID", help="An id such as whep_....")]
PATH = "/webhook_endpoints"


@app.command()
def add(
    url: Annotated[str, typer.Argument(help="Where to POST to, over https.")],
    event: Annotated[
        list[str] | None,
        typer.Option(help="Event to send, such as fine_tuning.job.succeeded. Repeatable.  [default: all]"),
    ] = None,
    description: Annotated[str | None, typer.Option(help="A few words for people.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Add an address to send events to, and show its secret, which is shown only this once."""
    wanted = {"url": url, "events": event, "description": description}
    with Client.from_environment() as client:
        endpoint = client.post(PATH, {name: value for name, value in wanted.items() if value})
    _print_with_secret(endpoint, as_json)


@app.command("list")
def list_endpoints(as_json: JsonFlag = False) -> None:
    """List addresses, newest first."""
    with Client.from_environment() as client:
        found = client.get(PATH)["data"]
    if as_json:
        print_json(found)
        return
    print_table(
        ("ID", "ENABLED", "URL"),
        [(one["id"], "yes" if one["enabled"] else "no", one["url"]) for one in found],
        empty="There are no webhooks yet; `sgg webhooks add` makes one.",
    )


@app.command()
def rotate(endpoint_id: EndpointId, as_json: JsonFlag = False) -> None:
    """Make a new secret and show it this once; the old one signs as well for a day."""
    with Client.from_environment() as client:
        endpoint = client.post(f"{PATH}/{endpoint_id}/rotate_secret")
    _print_with_secret(endpoint, as_json)


@app.command()
def remove(endpoint_id: EndpointId, as_json: JsonFlag = False) -> None:
    """Remove an address and the log of its deliveries."""
    with Client.from_environment() as client:
        answer = client.delete(f"{PATH}/{endpoint_id}")
    if as_json:
        print_json(answer)
    else:
        say(f"{endpoint_id} is removed.")


@app.command()
def deliveries(
    endpoint_id: EndpointId,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """List what was sent to an address, and with what outcome."""
    with Client.from_environment() as client:
        found = list(client.items(f"{PATH}/{endpoint_id}/deliveries", limit=limit))
    if as_json:
        print_json(found)
        return
    print_table(
        ("ID", "EVENT", "STATE", "TRIES", "LAST ANSWER", "CREATED"),
        [
            (one["id"], one["type"], one["state"], len(one["attempts"]), _last_answer(one), moment(one["created_at"]))
            for one in found
        ],
        empty="There are no deliveries yet.",
    )


@app.command()
def resend(
    endpoint_id: EndpointId,
    delivery_id: Annotated[str, typer.Argument(metavar="DELIVERY_ID", help="An id such as whdel_....")],
    as_json: JsonFlag = False,
) -> None:
    """Send a delivery again after it was delivered or given up."""
    with Client.from_environment() as client:
        delivery = client.post(f"{PATH}/{endpoint_id}/deliveries/{delivery_id}/resend")
    if as_json:
        print_json(delivery)
    else:
        say(f"{delivery_id} is sent again. See it with: sgg webhooks deliveries {endpoint_id}")


def _print_with_secret(endpoint: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(endpoint)
        return
    say(f"{endpoint['id']} is sent: {', '.join(endpoint['events'])}")
    say(f"Its secret, shown this once: {endpoint['secret']}")


def _last_answer(delivery: dict[str, Any]) -> object:
    if not delivery["attempts"]:
        return None
    last = delivery["attempts"][-1]
    return last["status"] or last["error"]
