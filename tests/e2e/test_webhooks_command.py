"""`sgg webhooks` against a real server."""


def test_webhooks_are_added_shown_rotated_and_removed(service):
    added = service.sgg_json("webhooks", "add", "https://example.com/hooks", "--event", "fine_tuning.job.failed")
    assert added["secret"].startswith("whsec_") and added["events"] == ["fine_tuning.job.failed"]
    listed = service.sgg("webhooks", "list")
    assert added["id"] in listed.stdout and added["secret"] not in listed.stdout
    assert "There are no deliveries yet." in service.sgg("webhooks", "deliveries", added["id"]).stdout
    rotated = service.sgg("webhooks", "rotate", added["id"])
    assert "shown this once: whsec_" in rotated.stdout and added["secret"] not in rotated.stdout
    assert service.sgg("webhooks", "resend", added["id"], "whdel_none").returncode == 1
    assert service.sgg("webhooks", "add", "http://127.0.0.1/").returncode == 1
    assert service.sgg("webhooks", "remove", added["id"]).returncode == 0
    assert service.sgg_json("webhooks", "list") == []
