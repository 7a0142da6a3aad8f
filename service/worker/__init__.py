"""The model's process. PyTorch comes where one of its runtimes is what runs, and never where ONNX Runtime does."""
