"""What other trainers call the keys of a config."""

from __future__ import annotations

SYNONYMS: dict[str, tuple[str, ...]] = {
    "accumulation": ("train.effective_batch", "train.micro_batch"),
    "adam_beta1": ("optim.betas",),
    "adam_beta2": ("optim.betas",),
    "adam_epsilon": ("optim.eps",),
    "adam_weight_decay": ("optim.weight_decay",),
    "base_model": ("backbone.pretrained",),
    "batch_size": ("train.effective_batch", "train.micro_batch"),
    "beta_dpo": ("objective.beta",),
    "bucket_reso_steps": ("data.bucket_step",),
    "cache_latents": ("data.cache.latents",),
    "caption_column": ("data.columns.prompt",),
    "caption_dropout": ("data.prompt_dropout",),
    "cfg_scale": ("validate.guidance_scale", "rollout.guidance_scale"),
    "checkpointing_steps": ("checkpoint.every_steps",),
    "checkpoints_total_limit": ("checkpoint.keep",),
    "clip_range": ("objective.clip",),
    "dataloader_num_workers": ("train.loader_workers",),
    "dataset_name": ("data.path",),
    "dtype": ("train.precision",),
    "enable_bucket": ("data.crop",),
    "enable_xformers": ("train.attention",),
    "epochs": ("train.steps", "train.effective_batch"),
    "eval_steps": ("validate.every_steps",),
    "flip_aug": ("data.flip",),
    "fp16": ("train.precision",),
    "gradient_accumulation_steps": ("train.effective_batch", "train.micro_batch"),
    "gradient_clipping": ("optim.max_grad_norm",),
    "group_size": ("rollout.images",),
    "iterations": ("train.steps",),
    "kl_coef": ("objective.kl",),
    "learning_rate": ("optim.lr",),
    "lora_alpha": ("lora.alpha",),
    "lora_dropout": ("lora.dropout",),
    "lora_r": ("lora.rank",),
    "lr": ("optim.lr",),
    "lr_scheduler": ("optim.schedule",),
    "lr_warmup_steps": ("optim.warmup_steps",),
    "max_train_steps": ("train.steps",),
    "mixed_precision": ("train.precision",),
    "model_name": ("backbone.pretrained",),
    "network_alpha": ("lora.alpha",),
    "network_dim": ("lora.rank",),
    "network_weights": ("lora.init",),
    "noise_offset": ("backbone.zero_terminal_snr",),
    "num_generations": ("rollout.images",),
    "num_inference_steps": ("validate.inference_steps", "rollout.inference_steps"),
    "num_train_epochs": ("train.steps", "train.effective_batch"),
    "optimizer": ("optim.name",),
    "output_dir": ("run_dir",),
    "pretrained_model_name_or_path": ("backbone.pretrained",),
    "pretrained_vae_model_name_or_path": ("backbone.vae",),
    "proportion_empty_prompts": ("data.prompt_dropout",),
    "random_flip": ("data.flip",),
    "random_seed": ("seed",),
    "resolution": ("data.resolution",),
    "resume_from_checkpoint": ("run_dir",),
    "rewards_weights": ("rewards.weight",),
    "sample_prompts": ("validate.prompts",),
    "save_every_n_steps": ("checkpoint.every_steps",),
    "save_steps": ("checkpoint.every_steps",),
    "scheduler": ("optim.schedule",),
    "target_modules": ("lora.targets",),
    "timestep_bias": ("noiser.min_timestep", "noiser.max_timestep"),
    "train_batch_size": ("train.effective_batch", "train.micro_batch"),
    "train_data_dir": ("data.path",),
    "unconditional_dropout": ("data.prompt_dropout",),
    "use_8bit_adam": ("optim.name",),
    "use_ema": ("optim.ema_decay",),
    "v_prediction": ("backbone.prediction_type",),
    "validation_prompts": ("validate.prompts",),
    "validation_steps": ("validate.every_steps",),
    "width": ("data.resolution",),
}
"""A usual name -> the keys that do the same here."""


def here_called(name: str) -> tuple[str, ...]:
    """The keys that do here what `name` does elsewhere; of spellings with dashes or without underscores too."""
    plain = _plain(name)
    return next((keys for synonym, keys in SYNONYMS.items() if _plain(synonym) == plain), ())


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
