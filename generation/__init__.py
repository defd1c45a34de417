"""Images and videos from trained networks: what the scripts that generate them share."""
