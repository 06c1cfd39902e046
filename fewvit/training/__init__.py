"""The engine that pretraining, linear probes and fine-tuning share: schedules, parameter groups, views, the loop, exact resume."""
