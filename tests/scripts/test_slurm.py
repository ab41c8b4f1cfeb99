"""The Slurm script as written, with stand-ins for srun and scontrol: two processes over gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from killed_ranks import free_port
from toys import pair_folder, write_config

ROOT = Path(__file__).parents[2]
STANDINS = {
    "t2ialign": f'exec {sys.executable} -m t2ialign "$@"',
    "srun": """shift
for rank in 0 1; do SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" & done
code=0
for job in $(jobs -p); do wait "$job" || code=$?; done
exit $code""",
    "scontrol": 'if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> scontrol.log; fi',
}


@pytest.mark.slow
def test_the_job_trains_in_two_processes_and_is_queued_again_where_it_was_stopped(sd15_folder: Path, tmp_path: Path):
    for name, text in STANDINS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    pairs = pair_folder(tmp_path / "pairs")
    config = write_config(tmp_path / "x.yaml", model=sd15_folder, pairs=pairs, run_dir=tmp_path / "x")
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "GLOO_SOCKET_IFNAME": "lo",
        "CONFIG": str(config),
        "PAIRS": str(pairs),
        "MODEL": str(sd15_folder),
        "RUN": str(tmp_path / "x"),
        "SLURM_JOB_ID": str(free_port() - 20000),
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_NTASKS": "2",
    }

    def submit(*overrides: str) -> subprocess.CompletedProcess[str]:
        script = str(ROOT / "scripts" / "slurm_sdxl_dpo.sbatch")
        command = ["bash", script, "train.micro_batch=1", *overrides]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    done = submit()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x" / "lora" / "pytorch_lora_weights.safetensors").is_file()
    assert not (tmp_path / "scontrol.log").exists()
    (tmp_path / "t2ialign").write_text("#!/usr/bin/env bash\nexit 130\n")
    assert submit().returncode == 130
    assert (tmp_path / "scontrol.log").read_text().startswith("requeue ")
