"""The model's process. Torch is imported here and in ``service/offline/``, nowhere else in the service."""
