"""Images and videos from trained networks: what the scripts that show something share."""
