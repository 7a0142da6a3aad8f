"""The steps of ``bench.gpu_day``, each a file: what is learned on a GPU in a few minutes."""
