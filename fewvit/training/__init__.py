"""The engine of pretraining, linear probes and fine-tuning: loop, schedules, parameter groups, order, exact resume."""
