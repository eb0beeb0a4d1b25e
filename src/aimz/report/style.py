"""Style sheet of a report, for screens of any width and for paper."""

__all__ = ["STYLE"]

STYLE = """
:root { color-scheme: light; --ink: #1d2125; --soft: #5a6169; --line: #d5d9dd; --pale: #f5f6f7; --link: #00558a; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; overflow-wrap: break-word; }
main, footer { max-width: 60rem; margin: 0 auto; padding: 0 1.5rem; }
main { padding-top: 2rem; }
h1 { font-size: 1.35rem; line-height: 1.3; margin: 0 0 .75rem; font-weight: 600; color: var(--soft); }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 0 0 .75rem; padding-top: 1.75rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
p { margin: 0 0 .8rem; max-width: 46rem; }
a { color: var(--link); }
a:focus-visible, [tabindex]:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.answer { font-size: 1.5rem; line-height: 1.35; font-weight: 600; max-width: none; margin-bottom: .6rem; }
.answer + .answer { font-size: 1.15rem; font-weight: 400; }
.about, figcaption, caption, footer { color: var(--soft); font-size: .875rem; }
.limits { border-left: 3px solid var(--ink); padding-left: .9rem; margin: 1rem 0; }
.limits p { margin-bottom: .4rem; }
.overview { display: grid; grid-template-columns: 1fr 1fr; gap: 0 2.5rem; margin: 1.25rem 0 2rem; }
.overview ul { margin: 0; padding: 0; list-style: none; }
.overview li { padding: .4rem 0; border-top: 1px solid var(--line); font-size: .9375rem; line-height: 1.45; }
section { margin: 0 0 2rem; }
figure { margin: 0 0 1.1rem; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { margin-top: .3rem; max-width: 46rem; }
.wide { overflow-x: auto; margin: 0 0 1.1rem; }
.wide svg { display: block; }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .35rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .85rem .3rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
dl { display: grid; grid-template-columns: minmax(9rem, max-content) 1fr; gap: .3rem 1.5rem; margin: 0 0 1.1rem;
  font-size: .9375rem; }
dt { color: var(--soft); }
dd { margin: 0; min-width: 0; }
code, pre { font: .86em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { background: var(--pale); padding: .8rem 1rem; overflow-x: auto; margin: 0 0 1.1rem; font-size: .8125rem; }
.missing { color: var(--soft); }
footer { padding-bottom: 2.5rem; }
@media (max-width: 640px) {
  main, footer { padding-left: 1rem; padding-right: 1rem; }
  main { padding-top: 1.25rem; }
  .answer { font-size: 1.25rem; }
  .overview { grid-template-columns: 1fr; gap: 1.5rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; }
  .wide img { max-width: none; width: 42rem; }
}
@media print {
  body { font-size: 10.5pt; }
  main, footer { max-width: none; padding: 0; }
  a { color: inherit; text-decoration: none; }
  h2, h3 { break-after: avoid; }
  figure, tr, .overview li { break-inside: avoid; }
  .wide { overflow: visible; }
  table { font-size: 8.5pt; }
  th { white-space: normal; }
  pre { white-space: pre-wrap; border: 1px solid var(--line); }
}
"""
