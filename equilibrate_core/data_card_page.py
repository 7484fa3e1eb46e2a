"""The data card as one HTML page without scripts: tables, and examples hidden until asked for.

card and example pairs -> HTML. Everything that came from data is escaped.
"""

from collections.abc import Sequence

from jinja2 import Environment

from equilibrate_core.data_card import INTRODUCTION, Card, masked, sections
from equilibrate_core.records import Pair

# <details> opens by click, Enter or Space in every browser, without a script.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data card</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
  color: #1b1f24; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #d5dae0; padding: .25rem .75rem; text-align: left; }
td + td, th + th { text-align: right; }
details { border: 1px solid #d5dae0; border-radius: 4px; margin: .5rem 0; padding: .5rem .75rem; }
summary { cursor: pointer; overflow-wrap: anywhere; }
summary:focus-visible { outline: 2px solid #1f5fbf; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .25rem 0 .75rem; }
@media (prefers-color-scheme: dark) { body { color: #e6e9ed; background: #14171b; }
  th, td, details { border-color: #3a414a; } }
</style>
</head>
<body>
<main>
<h1>Data card</h1>
<p>{{ introduction }}</p>
<p>Selection: <strong>{{ card.selection }}</strong>.</p>
{% for title, header, rows in sections %}
<h2>{{ title }}</h2>
{% if rows %}
<div class="wide" tabindex="0" role="region" aria-label="{{ title }}"><table>
<thead><tr>{% for cell in header %}<th scope="col">{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
{% else %}<p>None.</p>
{% endif %}{% endfor %}
{% if examples %}
<h2>Examples</h2>
<p>Some are offensive by nature. Each is masked until it is opened.</p>
{% for pair, hint in examples %}
<details><summary>{{ pair.category }}, {{ pair.source }}: {{ hint }}</summary>
{% for message in pair.messages %}<strong>{{ message.role }}</strong>
<pre>{{ message.content }}</pre>
{% endfor %}<strong>chosen</strong>
<pre>{{ pair.chosen }}</pre>
<strong>rejected</strong>
<pre>{{ pair.rejected }}</pre>
</details>
{% endfor %}{% endif %}
</main>
</body>
</html>
"""


def to_html(card: Card, examples: Sequence[Pair]) -> str:
    """The card as a page of its own."""
    template = Environment(autoescape=True, trim_blocks=True).from_string(PAGE)
    hinted = [(pair, masked(pair.messages[-1].content, 60)) for pair in examples]
    tables = sections(card)
    return template.render(card=card, introduction=INTRODUCTION, sections=tables, examples=hinted)
