"""The model's process. ``runner`` and ``process`` import torch; nothing else of the service does."""
