"""Checkpoints as models of their own: their files, and other projects that may use them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from api.testing import ApiServer, labelled
from sgg_store.attempts import Lease
from sgg_store.checkpoints import ADAPTER_FILES, Checkpoints
from sgg_store.database import Database
from sgg_store.errors import RecordNotFoundError
from sgg_store.events import Events
from sgg_store.job_state import JobStatus
from sgg_store.jobs import Jobs
from sgg_store.keys import DEFAULT_PROJECT_ID, ensure_project
from sgg_store.leases import Leases
from sgg_store.new_jobs import Start
from sgg_store.permissions import CheckpointPermissions
from sgg_store.records import CheckpointRecord, JobRecord
from sgg_store.starting_points import StartingPoints
from sgg_store.testing import add_job


@pytest.fixture
def client(api_server: ApiServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=api_server.base_url, api_key=api_server.admin_key, _strict_response_validation=True
    ) as opened:
        yield opened


@pytest.fixture
def checkpoints(api_server: ApiServer, client: openai.OpenAI) -> list[Any]:
    """Two checkpoints of a running job, newest first."""
    job_id = api_server.job_id(suffix="mine")
    worker = api_server.claim(job_id)
    worker.checkpoint(4)
    worker.checkpoint(8)
    return list(client.fine_tuning.jobs.checkpoints.list(job_id))


def files_of(checkpoint: Any) -> list[str]:
    return [file["file_id"] for file in checkpoint.model_extra["sgg"]["files"]]


def test_each_checkpoint_has_files_of_its_own(client: openai.OpenAI, checkpoints: list[Any]) -> None:
    found = [file_id for checkpoint in checkpoints for file_id in files_of(checkpoint)]
    assert len(set(found)) == 4
    assert [client.files.retrieve(file_id).filename for file_id in found] == [*ADAPTER_FILES] * 2
    assert all(client.files.content(file_id).read() == b"{}" for file_id in found)
    for checkpoint in checkpoints:
        model = client.models.retrieve(checkpoint.fine_tuned_model_checkpoint)
        assert model.model_extra is not None and model.model_extra["sgg"]["result_files"] == files_of(checkpoint)


def test_a_permission_lets_a_project_use_this_checkpoint_until_it_is_taken_back(
    client: openai.OpenAI, api_server: ApiServer, checkpoints: list[Any]
) -> None:
    newest, other = (checkpoint.fine_tuned_model_checkpoint for checkpoint in checkpoints)
    key = api_server.new_key(["files:read", "files:write", "jobs:read", "jobs:write"], project_id="proj-friend")
    permissions = client.fine_tuning.checkpoints.permissions
    with openai.OpenAI(base_url=api_server.base_url, api_key=key) as friend:

        def may_use() -> bool:
            try:
                friend.models.retrieve(newest)
                assert [friend.files.content(file_id).read() for file_id in files_of(checkpoints[0])] == [b"{}"] * 2
            except openai.NotFoundError:
                return False
            return True

        assert not may_use()
        (granted,) = permissions.create(newest, project_ids=["proj-friend"])
        assert (granted.object, granted.project_id) == ("checkpoint.permission", "proj-friend")
        assert may_use()
        file = friend.files.create(file=("t.jsonl", labelled()), purpose="fine-tune").id
        started = friend.fine_tuning.jobs.create(model=newest, training_file=file)
        assert started.model == "smollm2-135m-instruct"
        with pytest.raises(openai.BadRequestError):
            friend.fine_tuning.jobs.create(model=other, training_file=file)
        assert [one.id for one in permissions.create(newest, project_ids=["proj-friend"])] == [granted.id]
        with pytest.raises(openai.NotFoundError):
            friend.models.retrieve(other)
        for what in (
            lambda: friend.files.delete(files_of(checkpoints[0])[0]),
            lambda: friend.models.delete(other),
            lambda: friend.fine_tuning.checkpoints.permissions.create(newest, project_ids=["proj-friend"]),
            lambda: friend.fine_tuning.checkpoints.permissions.list(newest),
            lambda: friend.fine_tuning.checkpoints.permissions.delete(granted.id, fine_tuned_model_checkpoint=newest),
            lambda: friend.fine_tuning.jobs.retrieve(checkpoints[0].fine_tuning_job_id),
        ):
            with pytest.raises(openai.NotFoundError):
                what()
        with pytest.raises(openai.PermissionDeniedError, match="another project"):
            friend.models.delete(newest)
        assert [one.id for one in friend.files.list()] == [file]
        deleted = permissions.delete(granted.id, fine_tuned_model_checkpoint=newest)
        assert deleted.deleted is True and not may_use()


def test_permissions_are_listed_in_both_orders_and_page_by_page(
    client: openai.OpenAI, api_server: ApiServer, checkpoints: list[Any]
) -> None:
    name = checkpoints[0].fine_tuned_model_checkpoint
    projects = [f"proj-{number}" for number in range(5)]
    for project in projects:
        api_server.new_key(project_id=project)
    permissions = client.fine_tuning.checkpoints.permissions
    permissions.create(name, project_ids=projects)
    listed = [one.project_id for one in permissions.list(name, limit=2, order="ascending")]
    assert listed == [one.project_id for one in permissions.list(name, limit=2)][::-1]
    assert sorted(listed) == projects
    assert [one.project_id for one in permissions.list(name, project_id="proj-3")] == ["proj-3"]
    with pytest.raises(openai.NotFoundError):
        permissions.create(name, project_ids=["proj-nobody"])
    with pytest.raises(openai.NotFoundError):
        permissions.delete("cp_none", fine_tuned_model_checkpoint=name)
    with pytest.raises(openai.NotFoundError):
        permissions.list(name.replace("step-8", "step-9"))


def test_a_checkpoint_goes_by_its_name_with_its_files_and_not_while_its_job_may_need_it(
    client: openai.OpenAI, api_server: ApiServer, checkpoints: list[Any]
) -> None:
    job_id, name = checkpoints[0].fine_tuning_job_id, checkpoints[0].fine_tuned_model_checkpoint
    with pytest.raises(openai.BadRequestError) as caught:
        client.models.delete(name)
    assert caught.value.code == "model_in_use" and job_id in caught.value.message
    assert api_server.job(job_id)["status"] == "running"
    with api_server.http() as http:
        http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
    with api_server.database.begin() as session:
        Leases(session).expire_owned_by("by-hand")
    assert api_server.job(job_id)["status"] == "cancelled"
    for file_id in files_of(checkpoints[0]):
        with pytest.raises(openai.BadRequestError) as kept:
            client.files.delete(file_id)
        assert kept.value.code == "file_in_use" and f"DELETE /v1/models/{name}." in kept.value.message
    assert client.models.delete(name).deleted is True
    for file_id in files_of(checkpoints[0]):
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file_id)
    assert not any("step-00000008" in found.key for found in api_server.objects.list(""))
    (left,) = client.fine_tuning.jobs.checkpoints.list(job_id)
    with api_server.database.begin() as session:
        assert len(Checkpoints(session).files_of([left.id])[left.id]) == 2


def with_checkpoint(database: Database, project_id: str = DEFAULT_PROJECT_ID) -> tuple[Lease, CheckpointRecord]:
    """A running job of the project, and its checkpoint of step 1."""
    with database.begin() as session:
        claimed = Leases(session).claim(add_job(session, project_id).id, "w")
        assert claimed is not None
        return claimed.lease, Checkpoints(session).append(claimed.lease, 1, "prefix", {}, {})


def test_a_project_takes_no_permission_of_another_back_through_a_checkpoint_of_its_own(database: Database) -> None:
    (_, mine), (_, theirs) = with_checkpoint(database), with_checkpoint(database, "proj-other")
    with database.begin() as session:
        ensure_project(session, "proj-friend")
        (granted,) = CheckpointPermissions(session).grant(theirs, ["proj-friend"])
    with pytest.raises(RecordNotFoundError), database.begin() as session:
        CheckpointPermissions(session).revoke(mine, granted.id)


def test_jobs_that_wait_with_a_permission_that_is_taken_back_do_not_keep_the_checkpoint(database: Database) -> None:
    _, mine = with_checkpoint(database)
    with database.begin() as session:
        own = add_job(session, start=Start("mine", checkpoint_id=mine.id)).id
        ensure_project(session, "proj-friend")
        (granted,) = CheckpointPermissions(session).grant(mine, ["proj-friend"])
        theirs = [add_job(session, "proj-friend", start=Start("mine", checkpoint_id=mine.id)).id for _ in range(2)]
        other = add_job(session, "proj-friend").id
        Jobs(session).request_pause("proj-friend", theirs[0])
    with database.begin() as session:
        CheckpointPermissions(session).revoke(mine, granted.id)
    with database.read() as session:
        assert {session.get_one(JobRecord, job_id).status for job_id in theirs} == {JobStatus.CANCELLED}
        assert {session.get_one(JobRecord, job_id).status for job_id in (own, other)} == {JobStatus.QUEUED}
        assert Events(session).since("proj-friend", theirs[0], 0)[-1].message.endswith("was taken back.")


def test_no_job_starts_from_a_checkpoint_of_another_project(database: Database) -> None:
    _, theirs = with_checkpoint(database, "proj-other")
    with pytest.raises(RecordNotFoundError, match=theirs.id), database.begin() as session:
        add_job(session, start=Start("theirs", checkpoint_id=theirs.id))
    with database.begin() as session:
        add_job(session, "proj-other", start=Start("theirs", checkpoint_id=theirs.id))


def test_no_job_starts_from_a_damaged_checkpoint_that_is_named_by_its_id(database: Database) -> None:
    lease, checkpoint = with_checkpoint(database)
    with database.read() as session:
        assert StartingPoints(session, DEFAULT_PROJECT_ID).find(checkpoint.id).start.checkpoint_id == checkpoint.id
    with database.begin() as session:
        Checkpoints(session).mark_damaged(lease, checkpoint.id)
    with database.read() as session, pytest.raises(RecordNotFoundError, match=checkpoint.id):
        StartingPoints(session, DEFAULT_PROJECT_ID).find(checkpoint.id)


def test_only_a_sound_checkpoint_is_found_and_only_by_its_whole_name(database: Database) -> None:
    lease, checkpoint = with_checkpoint(database)
    with database.read() as session:
        name = session.get_one(JobRecord, lease.job_id).checkpoint_name(1)
    _, base, project, suffix, job, step = name.split(":")

    def found(name: str) -> bool:
        with database.read() as session:
            try:
                return CheckpointPermissions(session).owned(DEFAULT_PROJECT_ID, name)[1].id == checkpoint.id
            except RecordNotFoundError:
                return False

    assert found(name)
    for wrong in (("other", project, suffix), (base, "other", suffix), (base, project, "other")):
        assert not found(":".join(("ft", *wrong, job, step)))
    with database.begin() as session:
        Checkpoints(session).mark_damaged(lease, checkpoint.id)
    assert not found(name)
