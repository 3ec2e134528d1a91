import subprocess
import sys


def test_the_worker_never_loads_torch() -> None:
    script = (
        "import sys, worker.app, worker.embedded, worker.run_job, worker.testing, worker.trainer_process\n"
        "heavy = {'torch', 'transformers', 'peft', 'fastapi', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
