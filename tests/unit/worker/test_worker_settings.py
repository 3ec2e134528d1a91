from pathlib import Path

import pytest

from sgg_store.settings import StoreSettings
from worker.settings import WorkerSettings


def test_store_settings_are_kept_and_the_rest_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGG_WARM_BASE_MODEL", "smollm2-135m-instruct")
    monkeypatch.setenv("SGG_LEASE_SECONDS", "99")
    settings = WorkerSettings.extending(StoreSettings(data_dir=tmp_path, lease_seconds=7))
    assert settings.lease_seconds == 7
    assert settings.data_dir == tmp_path
    assert settings.warm_base_model == "smollm2-135m-instruct"


def test_worker_settings_are_left_as_they_are(tmp_path: Path) -> None:
    settings = WorkerSettings(data_dir=tmp_path, stop_seconds=1)
    assert WorkerSettings.extending(settings) is settings
