"""The lab: places candidates on GPUs, records what judges prove, decides promotions. Knows nothing of models."""
