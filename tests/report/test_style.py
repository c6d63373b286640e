import pytest

from eyeswap.report import style


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("palette", [style.LIGHT, style.DARK], ids=["light", "dark"])
def test_every_colour_stands_out_from_the_paper(palette):
    assert contrast(palette["ink"], palette["paper"]) > 12
    assert all(contrast(palette[name], palette["paper"]) > 4.5 for name in ("muted", "good", "alert"))
    for index in range(style.NUM_COLORS):
        assert contrast(palette[f"arm-{index}"], palette["paper"]) >= 3


def test_sixty_arms_have_sixty_marks():
    marks = {(style.color(index), style.marker(index)) for index in range(60)}
    assert len(marks) == 60
    assert len({style.color(index) for index in range(8)}) == 8


def test_light_and_dark_name_the_same_colours():
    assert style.LIGHT.keys() == style.DARK.keys()


def test_drawings_take_colours_and_font_from_the_page():
    svg = "<text style=\"font-size: 9px; font-family: 'DejaVu Sans', Arial; fill: #1D2026\">"
    assert style.themed(svg) == '<text style="font-size: 9px; font-family: var(--sans); fill: var(--ink)">'
    old = "<text style=\"font: bold 9px 'DejaVu Sans', Arial; fill: #0072b2\">"
    assert style.themed(old) == '<text style="font: bold 9px var(--sans); fill: var(--arm-0)">'


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (style.percent, 52.14, "52.1"),
        (style.points, 1.26, "+1.3"),
        (style.points, -0.44, "\N{MINUS SIGN}0.4"),
        (style.size, 212_300, "212k"),
        (style.size, 4_320_000, "4.3M"),
        (style.size, 97_700_000, "98M"),
        (style.size, None, "\N{EN DASH}"),
        (style.count, 214354, "214,354"),
        (style.p_value, 0.0004, "p < 0.001"),
        (style.p_value, 0.0123, "p = 0.012"),
        (style.listed, ["a", "b", "c"], "a, b and c"),
    ],
)
def test_numbers_are_written_one_way(write, value, text):
    assert write(value) == text
