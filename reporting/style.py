"""The style sheet of reports: one column on a phone, several charts side by side on a wide screen, light and dark."""

STYLE = """
:root { --ink: #1b1f24; --soft: #57606a; --paper: #fff; --panel: #f6f8fa; --rule: #d0d7de; --link: #0550ae;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #a8508a; --c4: #8a6d00; --c5: #2b8cbe; --c6: #6e4c1e; --c7: #444; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9da7b3; --paper: #0d1117; --panel: #161b22; --rule: #30363d; --link: #79b8ff;
    --c0: #56b4e9; --c1: #f08a3c; --c2: #2fcf9f; --c3: #e39ac8; --c4: #f0e442; --c5: #7fc7f5; --c6: #c9a26b;
    --c7: #c0c0c0; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 1500px; padding: 0 16px 48px; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Arial, sans-serif; }
h1 { font-size: 1.5rem; margin: 24px 0 0; overflow-wrap: anywhere; line-height: 1.25; }
header p { margin: 4px 0 0; color: var(--soft); }
h2 { font-size: 1.2rem; margin: 36px 0 12px; padding-bottom: 4px; border-bottom: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 16px 0 6px; overflow-wrap: anywhere; }
p, li { max-width: 75ch; overflow-wrap: anywhere; }
.charts { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
.chart { margin: 0; padding: 10px 12px; background: var(--panel); border: 1px solid var(--rule); border-radius: 8px;
  min-width: 0; }
.chart h3 { margin: 0; }
.chart > svg { display: block; width: 100%; height: auto; }
.note { margin: 2px 0 6px; color: var(--soft); font-size: .85rem; line-height: 1.35; min-height: 2.7em; }
svg text { fill: var(--ink); font-size: 13px; }
@media (max-width: 480px) { svg text { font-size: 15px; } }
svg text.label { fill: var(--soft); }
.grid { stroke: var(--rule); stroke-width: 1; }
.axis { stroke: var(--soft); stroke-width: 1; }
.guide { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 2 4; }
polyline { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
.dashed polyline, .dashed .swatch line { stroke-dasharray: 6 4; }
.dot { fill: currentColor; } .target { fill: transparent; } .target:hover { fill: currentColor; fill-opacity: .35; }
.interval { stroke: currentColor; stroke-width: 5; stroke-opacity: .35; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); } .c3 { color: var(--c3); }
.c4 { color: var(--c4); } .c5 { color: var(--c5); } .c6 { color: var(--c6); } .c7 { color: var(--c7); }
.legend { list-style: none; margin: 4px 0; padding: 0; display: flex; flex-wrap: wrap; gap: 2px 14px;
  font-size: .85rem; }
.legend span { color: var(--ink); } .swatch { width: 24px; height: 8px; margin-right: 5px; }
.swatch line { stroke: currentColor; stroke-width: 3; }
details { margin: 6px 0; font-size: .9rem; } summary { cursor: pointer; color: var(--link); }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; margin: 6px 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: .85rem; padding-bottom: 4px; }
th, td { text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid var(--rule); vertical-align: top;
  overflow-wrap: break-word; min-width: 6em; max-width: 22em; }
th { font-weight: 600; } thead th { color: var(--soft); }
.pictures { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 240px), 1fr)); }
.picture { margin: 0 0 16px; min-width: 0; }
.picture img { display: block; max-width: 100%; height: auto; background: #fff; }
.pixels { image-rendering: pixelated; } figcaption { color: var(--soft); font-size: .85rem; max-width: 75ch; }
.advice li { margin-bottom: 8px; }
pre { overflow: auto; max-height: 60vh; padding: 10px; background: var(--panel); border: 1px solid var(--rule);
  font-size: .8rem; }
code { overflow-wrap: anywhere; font-size: .9em; }
@media print { body { max-width: none; } .chart { break-inside: avoid; } }
"""
