"""The page in a real browser: boxes, filters, keys, and no sideways scrolling on a phone."""

import pytest

from chromium import CHROMIUM, FLAGS
from eyeswap.report import analyse, write_report
from eyeswap.report.writers.examples import choose_examples

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install eyeswap[dev]")

PATIENCE_MS = 180_000  # a busy machine may take minutes to draw a page
SCREENS = {"desktop": (1280, 900), "phone": (390, 844)}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the PATH"),
]


@pytest.fixture(scope="module")
def address(study_dir):
    analysis = analyse(study_dir)
    look = {"measure": "attention", "grid": [2, 2], "canvas": [0, -0.25, 1, 1.25], "weights": "AECA/w=="}
    arms = [arm.name for arm in analysis.results.finished_arms if arm.name != "vit"]
    looks = {(arm, *chosen): look for arm in arms for chosen in choose_examples(analysis.results)}
    return write_report(analysis, looks)["report.html"].as_uri()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def open_page(browser, address, width=1280, height=900, **options):
    page = browser.new_page(viewport={"width": width, "height": height}, **options)
    page.set_default_timeout(PATIENCE_MS)
    page.goto(address)
    return page


@pytest.fixture(params=["desktop"])
def page(request, browser, address):
    """Open the page; afterwards assert that it neither complained nor asked for anything."""
    width, height = SCREENS[request.param]
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(PATIENCE_MS)
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda one: requests.append(one.url))
    page.goto(address)
    yield page
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    page.close()


def boxes(page):
    return page.locator("#picture g")


def choose(page, benchmark):
    page.select_option("#filter-benchmark", label=benchmark)


@pytest.mark.parametrize("page", SCREENS, indirect=True)
def test_nothing_is_wider_than_the_screen(page):
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    visible = page.locator("figure svg:visible")
    assert visible.count() == page.locator("figure").count() >= 7
    for index in range(visible.count()):
        box = visible.nth(index).bounding_box()
        assert box["width"] <= page.viewport_size["width"]
        assert box["height"] > 100


@pytest.mark.parametrize("page", SCREENS, indirect=True)
def test_boxes_lie_where_the_data_says(page):
    choose(page, "RefCOCO")
    data = page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    example = next(one for one in data["examples"] if one["benchmark"] == 3)
    drawn = [answer for answer in example["answers"] if answer["box"]]
    assert boxes(page).count() == len(drawn) + 1
    image = page.locator("#picture img").bounding_box()
    assert image["width"] / image["height"] == pytest.approx(
        data["images"][example["image"]]["width"] / data["images"][example["image"]]["height"], rel=0.02
    )
    line = page.locator("#picture .truth .line").bounding_box()
    x1, y1, x2, y2 = example["truthBox"]
    assert line["x"] == pytest.approx(image["x"] + x1 * image["width"], abs=2)
    assert line["y"] == pytest.approx(image["y"] + y1 * image["height"], abs=2)
    assert line["width"] == pytest.approx((x2 - x1) * image["width"], abs=4)
    assert line["height"] == pytest.approx((y2 - y1) * image["height"], abs=4)


@pytest.mark.parametrize("page", SCREENS, indirect=True)
def test_a_veil_shows_where_an_answer_comes_from(page):
    pictures = page.locator("#looks > div")
    arms = page.locator("#answers .arm").all_inner_texts()
    assert pictures.count() == len(arms)
    assert pictures.locator("canvas").count() == len(arms) - 1  # one arm's model was not there
    shown = pictures.nth(arms.index("maxvit"))
    image, veil = (shown.locator(tag).bounding_box() for tag in ("img", "canvas"))
    assert veil["y"] == pytest.approx(image["y"] - image["height"] / 4, abs=1)
    assert veil["height"] == pytest.approx(1.5 * image["height"], abs=2)
    opacity = (
        "canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, 2, 2).data).filter((_, i) => i % 4 === 3)"
    )
    first, second, third, clearest = shown.locator("canvas").evaluate(opacity)
    assert first > second > third > clearest
    assert clearest == 0


@pytest.mark.extended
def test_every_arm_has_its_own_colour_and_its_box_can_be_hidden(page):
    choose(page, "OCID-Ref")
    while boxes(page).count() < 5:
        page.click("#next")
    lines = page.locator("#picture g:not(.truth) .line")
    colors = lines.evaluate_all("lines => lines.map((line) => getComputedStyle(line).stroke)")
    assert len(set(colors)) == 4
    page.click("#answers button >> nth=1")
    assert boxes(page).count() == 4
    assert page.get_attribute("#answers button >> nth=1", "aria-pressed") == "false"
    page.click("#answers button >> nth=1")
    assert boxes(page).count() == 5


@pytest.mark.extended
def test_arrow_keys_and_buttons_turn_the_pages(page):
    counter = page.locator("#counter")
    assert counter.inner_text().startswith("1 of 60")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert counter.inner_text().startswith("3 of 60")
    page.keyboard.press("ArrowLeft")
    assert counter.inner_text().startswith("2 of 60")
    page.click("#previous")
    page.click("#previous")
    assert counter.inner_text().startswith("60 of 60")
    assert page.get_attribute("#strip button >> nth=59", "aria-current") == "true"


@pytest.mark.parametrize("page", SCREENS, indirect=True)
def test_filters_narrow_the_examples(page):
    page.check("#filter-disagree")
    total = page.locator("#strip button").count()
    assert 0 < total < 60
    choose(page, "RefCOCO")
    page.select_option("#filter-arm", label="vmamba")
    page.select_option("#filter-outcome", "wrong")
    found = page.locator("#strip button").count()
    assert found < total
    for _ in range(found):
        row = page.locator("#answers .answer", has=page.get_by_text("vmamba", exact=True))
        assert row.locator(".mark.wrong").count() == 1
        assert page.locator("#answers .mark.right").count() > 0
        page.click("#next")


@pytest.mark.extended
def test_filters_that_fit_nothing_say_so_and_can_be_cleared(page):
    page.evaluate("document.getElementById('filter-benchmark').add(new Option('none', '99'))")
    choose(page, "none")
    assert page.is_visible("#nothing")
    assert page.is_hidden("#browser")
    page.click("#clear")
    assert page.locator("#counter").inner_text().startswith("1 of 60")


def test_a_screen_reader_hears_names_and_correct_or_wrong(page):
    assert page.get_by_role("navigation", name="Sections").count() == 1
    for name in ("Scores", "Pair by pair", "Look for yourself", "Training", "What was held fixed"):
        assert page.get_by_role("heading", name=name, exact=True).count() == 1
    for name in ("Benchmark", "Arm", "Answer", "only where arms disagree"):
        assert page.get_by_label(name, exact=True).count() == 1
    assert page.get_by_role("button", name="Next example").count() == 1
    marks = page.locator("#answers .mark").all_inner_texts()
    assert all("correct" in mark or "wrong" in mark for mark in marks)
    assert page.locator("#picture img").get_attribute("alt").startswith("Image for: ")
    assert page.locator("figure svg:visible").first.get_attribute("aria-label")


@pytest.mark.extended
def test_text_search_finds_questions_truths_and_answers(page):
    page.fill("#filter-text", "HOW MANY discs")
    found = page.locator("#strip button").count()
    assert 0 < found < 60
    assert page.locator("#question").inner_text() == "How many discs are there?"
    page.fill("#filter-text", "no such words anywhere")
    assert page.is_visible("#nothing")
    page.click("#clear")
    assert page.locator("#strip button").count() == 60


@pytest.mark.extended
def test_a_reader_with_a_keyboard_can_skip_to_the_verdict(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "verdict"


def test_the_first_screen_has_the_headline_the_arms_and_one_figure(browser, address):
    page = open_page(browser, address, 1400, 1000)
    bottoms = {name: page.locator(name).bounding_box() for name in ("h1", ".compared", "#figure-averages svg:visible")}
    assert all(box["y"] + box["height"] < 1000 for box in bottoms.values())
    assert page.locator(".compared .arm").all_inner_texts() == ["vit", "maxvit", "vmamba", "mambavision"]
    order = page.locator("main > header, main > section").evaluate_all("all => all.map((one) => one.id)")
    assert order[:3] == ["verdict", "numbers", "findings"]
    page.close()


def test_on_a_phone_the_page_is_short_and_the_navigation_unfolds_it(browser, address):
    page = open_page(browser, address, 390, 844)
    bottoms = page.locator("figure").evaluate_all("all => all.map((one) => one.getBoundingClientRect().bottom)")
    assert max(bottoms) < 8000
    assert not page.locator("#figure-errors").is_visible()
    page.locator("nav a", has_text="Boxes").click()
    assert page.locator("#figure-errors").is_visible()
    page.close()


@pytest.mark.parametrize("page", SCREENS, indirect=True)
def test_every_figure_has_its_numbers_as_a_table(page):
    page.evaluate("document.querySelectorAll('.fold').forEach((one) => { one.open = true; })")
    for figure in page.locator("figure").all():
        assert figure.locator("figcaption").inner_text()
        figure.locator("summary").click()
        assert figure.locator("table tbody tr").count() > 0
        assert figure.locator("table").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_every_control_has_a_name_and_every_region_can_be_reached(page):
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, select, input, a, summary')].filter((one) =>
          !(one.ariaLabel || one.textContent.trim() || (one.labels && one.labels.length))).length"""
    )
    assert nameless == 0
    assert page.evaluate(
        "[...document.querySelectorAll('.scroll')].every((one) => one.tabIndex === 0 && one.ariaLabel)"
    )


@pytest.mark.extended
def test_numbers_can_be_taken_along(page):
    with page.expect_download() as download:
        page.click("a[download='results.csv']")
    assert download.value.path().read_text().startswith("study,arm,seed,benchmark")


def test_print_keeps_what_can_be_read_and_drops_what_can_be_pressed(browser, address):
    page = browser.new_page(viewport={"width": 1000, "height": 1400})
    page.emulate_media(media="print", color_scheme="dark")
    page.goto(address)
    assert page.locator("nav, .filters, .strip, .skip").evaluate_all("all => all.every((one) => !one.offsetParent)")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 253, 251)"
    assert page.locator("figure .wide svg").first.is_visible()
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable(browser, address, scheme):
    page = open_page(browser, address, color_scheme=scheme)
    ratios = page.evaluate(
        """() => {
      const light = (color) => {
        const parts = color.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255);
        const [r, g, b] = parts.map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const paper = light(getComputedStyle(document.body).backgroundColor);
      const texts = [...document.querySelectorAll('p, dd, dt, td, th, figure svg:not([hidden]) text')];
      return texts.filter((one) => one.getClientRects().length).map((one) => {
        const style = getComputedStyle(one);
        const ink = light(one instanceof SVGElement ? style.fill : style.color);
        return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
      });
    }"""
    )
    page.close()
    assert len(ratios) > 100
    assert min(ratios) > 4.5
