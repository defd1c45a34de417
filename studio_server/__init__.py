"""The server of studio.py: networks in a browser. `page/` is the page that it serves."""
