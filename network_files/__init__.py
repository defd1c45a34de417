"""Read and write network files without executing anything in them; `reading` and `writing` are the interface."""
