"""Networks for others: a folder with a network, what is known of it, and a model card; and its upload to a hub."""
