"""Reading what a job left."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import torch
from safetensors.torch import load

from sgg_store.files import Files
from worker.testing import Workbench


def adapter_of(bench: Workbench, job_id: str) -> dict[str, torch.Tensor]:
    """The weights in the archive that the job left."""
    job = bench.job(job_id)
    with bench.database.read() as session:
        found = [Files(session).get(job.project_id, file_id) for file_id in job.result_file_ids]
    (archive,) = [file for file in found if file.filename.endswith(".tar.gz")]
    with tarfile.open(fileobj=io.BytesIO(b"".join(bench.objects.open(archive.object_key)))) as tar:
        (member,) = [member for member in tar if Path(member.name).name == "adapter_model.safetensors"]
        content = tar.extractfile(member)
        assert content is not None
        return load(content.read())
