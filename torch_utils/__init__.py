"""What network pickles depend on: persistence, tensor helpers, operators and statistics; also processes and images."""
