"""``report``: one page without references to other files, in which strings of users are text."""

import re
from collections import Counter
from html.parser import HTMLParser
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS

from aimz import ImpactModel, NotFittedError
from aimz.report import Code, Facts, Figure, Items, Report, Section, Table, Text, draw_graph, render

SCRIPT = "<script>alert('x')</script>"
SITE = "<script>alert('x')"
COLUMN = "<b onmouseover=alert(1)>age</b>"
VOID = {"meta", "img", "source", "br", "path", "rect"}
RNG = np.random.default_rng(0)
N = 200
TABLE = pd.DataFrame({COLUMN: RNG.normal(size=N), "mail": np.arange(N) % 2}).astype({"mail": np.float32})
TABLE["spent"] = TABLE[COLUMN] + TABLE["mail"] + RNG.normal(size=N)


def kernel(X, mail, spent=None):
    gain = numpyro.sample("gain", dist.Normal(0.0, 5.0))
    slope = numpyro.sample(SITE, dist.Normal(0.0, 5.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("person", X.shape[0]):
        numpyro.sample("spent", dist.Normal(X @ slope + gain * mail, 1.0), obs=spent)


class Page(HTMLParser):
    """A parsed page: its elements with their attributes, and its text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, f"elements are not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def check_page(text):
    """Check that a page is self-contained, accessible and without code of users; return it."""
    page = Page(text)
    assert not {"script", "iframe", "link", "object", "b"} & {tag for tag, _ in page.elements}
    for _, attrs in page.elements:
        assert not [name for name in attrs if name.startswith("on")]
        for name in ("src", "href", "srcset", "data"):
            assert attrs.get(name, "#").startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"url\((?!#)|@import|https?:", text)
    assert all(attrs.get("alt", "").strip() for attrs in page.all("img"))
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert max(Counter(ids).values()) == 1
    targets = {attrs["href"][1:] for attrs in page.all("a")}
    labels = {attrs["aria-labelledby"] for _, attrs in page.elements if "aria-labelledby" in attrs}
    assert targets | labels <= set(ids)
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert len(text) < 3e6
    return page


@pytest.fixture(scope="module")
def model():
    mcmc = MCMC(NUTS(kernel), num_warmup=100, num_samples=200, progress_bar=False)
    return ImpactModel(kernel, random.key(0), mcmc, param_output="spent").fit_on_batch(TABLE, progress=False)


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    """Return the text of a report and the key of the model before it."""
    key = random.key_data(model.rng_key).tolist()
    rehearsal = SimpleNamespace(
        sentences=[f"Of 20 rehearsals {SCRIPT} 19 found it."], to_pandas=lambda: pd.DataFrame({SCRIPT: [COLUMN]})
    )
    path = model.report(
        tmp_path_factory.mktemp("report") / "report.html",
        effect="mail",
        question=f"Does `mail` pay for {SCRIPT}?",
        notes=[f"Collected in May {COLUMN}."],
        rehearsal=rehearsal,
        sensitivity={"benchmark": [COLUMN]},
        graph=[(COLUMN, "spent"), ("mail", "spent")],
    )
    return path.read_text(encoding="utf-8"), key


def test_page_is_self_contained_and_strings_are_text(written):
    page = check_page(written[0])
    assert page.text.count(SCRIPT) >= 3  # question, rehearsal and its table
    assert f"{SITE}[{COLUMN}]" in page.text
    assert f"Collected in May {COLUMN}." in page.text


def test_first_screen_has_the_answer_and_missing_checks(written):
    text = written[0]
    first = Page(text[text.index('<header id="answer">') : text.index("</header>")] + "</header>").text
    assert "Expected spent is on average" in first
    assert "higher under mail = 1 than under mail = 0" in first
    assert "Is it the causal effect?: Under the given graph, the kernel computes the effect of mail on spent" in first
    assert "Do the priors decide the answer?: call model.prior_sensitivity(effect=...)" in first
    assert f"Does the analysis recover known effects?: Of 20 rehearsals {SCRIPT} 19 found it." in first
    assert "Could a hidden common cause explain it?: To explain away the whole effect, a hidden common cause" in first
    assert first.index("Expected spent") < first.index("Checked") < first.index("Not checked")


def test_sections_have_the_numbers_of_their_methods(model, written):
    text = Page(written[0]).text
    check = model.check(TABLE, max_rows=2000)
    assert f"Checks of {N} rows" in text
    assert all(one.check in text for one in check.findings)
    assert "The question is supported by the data of the fit." in text
    assert "200 data sets drawn from the priors" in text
    assert f"{model.posterior_tree()['posterior']['gain'].values.mean():.4g}" in text
    digests = model._observed.digests
    assert all(digest in text for _, digest in digests.values())
    assert "threefry2x32:" in text
    assert "def kernel(X, mail, spent=None):" in text


@pytest.mark.slow
def test_report_keeps_the_key_and_is_reproducible(model, written, tmp_path):
    assert random.key_data(model.rng_key).tolist() == written[1]
    first, second = (model.report(tmp_path / "a.html", effect="mail").read_text() for _ in range(2))
    date = re.compile(r"on \d{4}-\d\d-\d\d \d\d:\d\d UTC")
    assert date.sub("", first) == date.sub("", second)
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


def test_model_without_rows_reports_what_is_not_known(tmp_path):
    model = ImpactModel(kernel, 0, param_output="spent")
    with pytest.raises(NotFittedError, match="`report` needs a posterior"):
        model.report(tmp_path / "report.html")
    model.describe(TABLE)
    model.set_posterior_sample({"gain": jnp.ones(50), SITE: jnp.ones((50, 1))})
    page = check_page(model.report(tmp_path / "report.html").read_text())
    assert "No effect was asked for." in page.text
    assert "no causal graph was given" in page.text
    assert "The rows of the fit are not described" in page.text
    assert "Does the model look like the data?: " in page.text
    assert page.text.count("Not run: ") >= 7
    assert not page.all("img")


def test_options_that_are_wrong_raise(model, tmp_path):
    path = tmp_path / "report.html"
    with pytest.raises(ValueError, match="must name sites, arguments of the kernel or columns"):
        model.report(path, effect="mail", graph="wealth -> spent")
    with pytest.raises(ValueError, match="`sensitivity` needs the effect of one treatment"):
        model.report(path, sensitivity=True)
    assert not path.exists()


def test_failed_checks_are_next_to_the_answer(model, tmp_path):
    wrong = TABLE.assign(spent=TABLE["spent"] + 5)
    text = model.report(
        tmp_path / "a.html", effect=model.effect("mail", progress=False), check=model.check(wrong)
    ).read_text()
    first = Page(text[text.index('<header id="answer">') : text.index("</header>")] + "</header>").text
    assert re.search(r"\d of \d checks failed: the predicted mean is off", first)


def test_page_escapes_every_block():
    blocks = (
        Text(SCRIPT),
        Items((SCRIPT,)),
        Facts(((SCRIPT, SCRIPT),)),
        Table((SCRIPT, "n"), ((SCRIPT, "1"), ("x", "-2.5 %")), SCRIPT),
        Figure(b"png", SCRIPT, SCRIPT, b"narrow"),
        Code(SCRIPT, SCRIPT),
        draw_graph([(SCRIPT, "y"), ("x", SCRIPT)], {"y": "outcome"}, caption=SCRIPT),
    )
    sections = (Section("one", SCRIPT, blocks, SCRIPT), Section("two", SCRIPT, not_run=SCRIPT))
    text = render(Report(f"`{SCRIPT}`", (SCRIPT,), SCRIPT, None, sections, SCRIPT, (SCRIPT,)))
    page = check_page(text)
    assert '<td class="number">-2.5 %</td>' in text
    assert '<td class="number">1</td>' in text
    assert page.text.count(SCRIPT) > 15


def test_graph_is_drawn_from_causes_to_effects():
    drawing = draw_graph([("a", "b"), ("b", "c"), ("a", "c"), ("d", "c")], {"a": "treatment", "c": "outcome"})
    x = {name: int(place) for place, name in re.findall(r'<text x="(\d+)".*?>(\w+)</text>', drawing.svg)}
    assert x["a"] < x["b"] < x["c"]
    assert x["d"] == x["b"]
    assert drawing.alt == "Graph of causes and effects: a to b; b to c; a to c; d to c"
    assert drawing.svg.count("marker-end") == 4
