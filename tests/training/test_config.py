"""Settings that cannot work are refused by name."""

import pytest

from d3pm.errors import ConfigError
from d3pm.training import TrainingConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_steps", 0),
        ("batch_size", -1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("warmup_steps", -1),
        ("ema_decay", 1.0),
        ("keep_checkpoints", 0),
        ("micro_batch_size", 7),
    ],
)
def test_a_bad_number_is_named(field, value):
    with pytest.raises(ConfigError, match=f"training.{field} is {value}"):
        TrainingConfig(**{field: value})


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setattr("transformers.integrations.get_available_reporting_integrations", lambda: [])
    with pytest.raises(ConfigError, match=r"training.report_to names wandb, which is not installed"):
        TrainingConfig(report_to=["wandb"]).here()


def test_a_micro_batch_that_processes_cannot_share_is_answered_with_one_they_can(monkeypatch):
    """The batch may not change on resume, the micro-batch may."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"set training\.micro_batch_size to 16, or another divisor of 16"):
        TrainingConfig(batch_size=32, micro_batch_size=32).here()
