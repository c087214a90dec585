"""A run that is killed without warning and resumed ends with the weights of the unbroken one."""

import pytest
from kill_and_resume import main
from random_data import write_random_data


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_weights(tiny_model_dir, tmp_path):
    data = write_random_data(tmp_path / "data")
    assert main(["--model-dir", str(tiny_model_dir), "--data-dir", str(data), "--kills", "4", "--epochs", "8"]) == 0
