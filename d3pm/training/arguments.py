"""The settings of a training in the words of ``transformers``."""

from transformers import TrainingArguments

from d3pm.training.config import TrainingConfig
from d3pm.training.run import RunFolder

LR_SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine", "linear": "linear"}


def training_arguments(config: TrainingConfig, folder: RunFolder) -> TrainingArguments:
    """Say :class:`TrainingConfig` in the words of ``transformers``."""
    here = config.here()
    args = TrainingArguments(
        output_dir=str(folder.staging),
        max_steps=config.max_steps,
        per_device_train_batch_size=here.micro_batch_size,
        gradient_accumulation_steps=here.accumulation,
        optim="adamw_torch_fused",
        learning_rate=config.learning_rate,
        lr_scheduler_type=LR_SCHEDULES[config.lr_schedule],
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=not here.gpu,  # the tables are float64, which Apple's GPUs do not have
        bf16=here.bf16,
        eval_strategy="steps",
        eval_steps=config.eval_every,
        save_strategy="steps",
        save_steps=config.save_every,
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,
        report_to=[tracker for tracker in config.report_to if tracker != "tensorboard"] or "none",
        disable_tqdm=True,
        log_level="error",
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,  # tables are the same everywhere; so is what a loss remembers
        dataloader_num_workers=config.num_workers,
        dataloader_drop_last=True,
        dataloader_pin_memory=here.gpu,
        remove_unused_columns=False,
    )
    args._n_gpu = min(args.n_gpu, 1)  # one device a process; torchrun starts more
    return args
