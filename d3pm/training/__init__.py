"""Training: a thin layer on ``transformers.Trainer``.

==================  ==============================================================================
`config.py`         what a user may set, under names a user knows
`run.py`            the folder of a run: who may write into it, which checkpoints are whole
`checkpoint.py`     the list of a checkpoint's files, by which damage is told
`ema.py`            the moving average of the weights, the model that is evaluated and kept
`arguments.py`      the same settings in the words of ``transformers``
`trainer.py`        the Trainer: evaluation reports on held-out data, noise belongs to a step and its rows
`keeping.py`        what it writes into a run's folder and reads back
`layers.py`         what is done to every layer of a network: computed again, compiled
`sharded.py`        one model in parts over several processes (FSDP2)
`optimizers.py`     Muon for matrices beside AdamW for the rest
`data_position.py`  how far a stream has been read, in a checkpoint
`callbacks.py`      the progress bar, and stopping on a signal without losing a step
==================  ==============================================================================

`transformers` is imported by `arguments.py`, `keeping.py`, `trainer.py` and `callbacks.py` only: import these where
they are used.
"""

from d3pm.training.config import TrainingConfig
from d3pm.training.run import RunFolder

__all__ = ["RunFolder", "TrainingConfig"]
