"""The formats that networks are stored in, read without running anything of a file. `legacy` is the way in."""
