"""Look for problems in a set of images: `dataset_tool.py --check`.

`measuring` measures each image in a process of its own, `similar_images` finds those that are nearly the same, `rules`
turns measurements into findings, and `contact_sheet` shows them. `check` runs these steps, and `files` writes and reads
what they find. Nothing is removed from the images.
"""
