"""The published PyTorch code and data: names, twins, golden files, checkpoints, lists."""
