"""Training: a thin layer on ``transformers.Trainer``.

==================  ==============================================================================
`config.py`         what a user may set, under names a user knows
`run.py`            the folder of a run: who may write into it, which checkpoints are whole
`ema.py`            the moving average of the weights, the model that is evaluated and kept
`trainer.py`        the Trainer: evaluation reports on held-out data, checkpoints are atomic
`callbacks.py`      the progress bar, and stopping on a signal without losing a step
==================  ==============================================================================

`transformers` is imported by `trainer.py` and `callbacks.py` only: import them where they are used.
"""

from d3pm.training.config import TrainingConfig
from d3pm.training.run import RunFolder

__all__ = ["RunFolder", "TrainingConfig"]
