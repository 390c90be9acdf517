"""How the HTML page looks: on a phone, on a desk, in the dark, on paper.

The key column of a table stays while the rest scrolls, and is never wider than
half of the screen. Plots are drawn for paper; in the dark they are inverted and
turned back to their hues.
"""

# Text has a contrast of 7:1 and more (WCAG AAA), accents 4.5:1, in both.
CSS = """
:root{color-scheme:light dark;--ink:#1c2530;--soft:#4a5563;--line:#d9dee5;
--paper:#fff;--ground:#f5f7f9;--accent:#005a8e;--tint:#e8f1f8;--warn:#fff7e6;
--edge:#b87700;--hit:#dcefe6}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaef;--soft:#b4bdc8;
--line:#39424d;--paper:#171c22;--ground:#0e1216;--accent:#7cc4f2;
--tint:#1c2b38;--warn:#2f2610;--edge:#d99a2b;--hit:#1d4231}
figure svg{filter:invert(1) hue-rotate(180deg);mix-blend-mode:lighten}}
*{box-sizing:border-box}
body{margin:0 auto;padding:0 1.25rem 4rem;max-width:72rem;color:var(--ink);
background:var(--ground);line-height:1.5;overflow-wrap:break-word;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,
"DejaVu Sans",sans-serif}
header{padding:2.25rem 0 .5rem}
h1{margin:0 0 .4rem;font-size:1.9rem;line-height:1.2;letter-spacing:-.01em}
h2{margin:0 0 .9rem;font-size:1.25rem}
h3{margin:1.5rem 0 .5rem;font-size:1rem}
p{margin:.4rem 0 .8rem;max-width:46rem}
header p{max-width:none}
header p,figcaption,caption,.remark{color:var(--soft)}
a{color:var(--accent)}
code{font-size:.92em;overflow-wrap:anywhere}
nav{position:sticky;top:0;z-index:1;background:var(--ground);
border-bottom:1px solid var(--line);margin-bottom:1.25rem}
nav ul{display:flex;flex-wrap:wrap;gap:.1rem 1rem;margin:0;padding:.6rem 0;
list-style:none;font-size:.92rem}
nav a{text-decoration:none}
nav a:hover,nav a:focus{text-decoration:underline}
section{background:var(--paper);border:1px solid var(--line);
border-radius:10px;padding:1.3rem 1.4rem;margin:0 0 1.25rem;
scroll-margin-top:3.2rem}
.answer{font-size:1.12rem}
.tiles{display:grid;gap:.8rem;margin:0 0 1.2rem;
grid-template-columns:repeat(auto-fit,minmax(11rem,1fr))}
.tile{background:var(--tint);border-radius:8px;padding:.8rem 1rem}
.tile dt{font-size:.85rem;color:var(--soft)}
.tile dd{margin:.1rem 0;font-size:1.65rem;font-weight:650;line-height:1.2;
font-variant-numeric:tabular-nums}
.tile .remark{margin:0;font-size:.82rem}
.scroll{overflow-x:auto;margin:.4rem 0 1rem}
table{border-collapse:collapse;width:100%;font-size:.9rem;
font-variant-numeric:tabular-nums}
caption{text-align:left;padding:0 0 .5rem;font-size:.88rem}
caption span,figcaption{display:inline-block;position:sticky;left:0;
max-width:min(46rem,calc(100vw - 3.6rem))}
th,td{padding:.38rem .6rem;text-align:right;border-bottom:1px solid var(--line);
vertical-align:top;white-space:nowrap}
thead th{border-bottom:2px solid var(--line);font-weight:600}
tbody th{font-weight:500}
th:first-child{text-align:left;position:sticky;left:0;background:inherit;
white-space:normal;min-width:6.5rem}
tr{background:var(--paper)}
tr.bigrec,tr.system{background:var(--tint)}
tr.oracle th,tr.oracle td{color:var(--soft)}
tr:not(.oracle)+tr.oracle>*{border-top:2px solid var(--line)}
.wide td,.wide th{white-space:normal;text-align:left;overflow-wrap:anywhere}
.ci{display:block;color:var(--soft);font-size:.74rem}
.best{font-weight:700}
figure{margin:.6rem 0 1.2rem;overflow-x:auto}
figure svg{display:block;width:100%;height:auto;min-width:36rem}
figcaption{font-size:.88rem;margin-top:.3rem}
.missing{background:var(--warn);border-left:4px solid var(--edge);
padding:.55rem .8rem}
.cards{display:grid;gap:1rem;
grid-template-columns:repeat(auto-fit,minmax(min(27rem,100%),1fr))}
.card{border:1px solid var(--line);border-radius:8px;padding:.2rem 1rem .7rem;
font-size:.9rem;overflow-wrap:anywhere}
.card ol,.card ul{margin:.2rem 0 .6rem;padding-left:1.6rem}
.card h3{margin:.7rem 0 .2rem;font-size:.85rem;color:var(--soft);
font-weight:600}
.card .columns{display:grid;gap:0 1rem;
grid-template-columns:repeat(auto-fit,minmax(min(11.5rem,100%),1fr))}
.hit{background:var(--hit);border-radius:4px;padding:0 .25rem;font-weight:600}
.none{color:var(--soft)}
details{margin:.5rem 0}
summary{cursor:pointer;color:var(--accent);font-weight:600}
@media (max-width:40rem){body{padding:0 .6rem 2rem}section{padding:1rem .8rem}
h1{font-size:1.5rem}.tile dd{font-size:1.35rem}nav{position:static}
.tiles{grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr))}
th:first-child{max-width:45vw;overflow-wrap:anywhere}
caption span,figcaption{max-width:calc(100vw - 3rem)}}
@media print{:root{color-scheme:light;--ink:#000;--soft:#333;--line:#bbb;
--paper:#fff;--ground:#fff;--accent:#000;--tint:#fff;--warn:#fff;--hit:#eee}
nav{display:none}body{max-width:none;padding:0;font-size:10pt}
section{border:0;padding:0}h2,h3,caption{break-after:avoid}
tr,figure,.card,.tile{break-inside:avoid}thead{display:table-header-group}
.scroll,figure{overflow:visible}th,td{padding:.2rem .3rem;font-size:8pt}
figure svg{min-width:0;filter:none;mix-blend-mode:normal}
details::details-content{content-visibility:visible;height:auto;
block-size:auto}}
"""
