"""Export of networks: ONNX files, PyTorch programs, and web pages that contain a network."""
