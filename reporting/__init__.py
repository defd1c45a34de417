"""The report of training runs: one HTML file that needs nothing else.

`run_record` reads the directory of a run, `samples` generates images for it, `advice` says what to try next, `charts`
draws curves as SVG, and `page` puts everything together. Whatever is read may be damaged or hostile: sizes are limited,
all text is escaped, and images are decoded and encoded again. The page contains no script and loads nothing.
"""
