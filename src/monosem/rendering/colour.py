"""Perceptually even colour ramps: straight lines in OKLab, and the contrast of text upon them.

OKLab is Ottosson 2020 (https://bottosson.github.io/posts/oklab); contrast is WCAG 2.2's ratio of
relative luminances, where 4.5 is readable and 7 is comfortable.
"""

LEVELS = 16
"""Steps of the activation ramp; level 0 is the bare page."""

Rgb = tuple[float, float, float]


def ramp(paper: str, full: str, levels: int = LEVELS, first: float = 0.12) -> list[str]:
    """Return `levels` hex colours on the OKLab line from `paper` to `full`, at equal distances.

    The first lies `first` of the way along, so that even the weakest activation can be seen.

    >>> ramp("#ffffff", "#000000", levels=2, first=0.5)
    ['#636363', '#000000']
    """
    start, end = oklab(paper), oklab(full)
    colours: list[str] = []
    for level in range(levels):
        t = first + (1 - first) * (level / (levels - 1) if levels > 1 else 1.0)
        colours.append(
            _hex(
                (
                    start[0] + t * (end[0] - start[0]),
                    start[1] + t * (end[1] - start[1]),
                    start[2] + t * (end[2] - start[2]),
                )
            )
        )
    return colours


def contrast(one: str, other: str) -> float:
    """Return WCAG's contrast ratio of two hex colours, from 1 to 21.

    >>> round(contrast("#ffffff", "#000000"), 1)
    21.0
    """
    first, second = _luminance(one), _luminance(other)
    return (max(first, second) + 0.05) / (min(first, second) + 0.05)


def oklab(colour: str) -> Rgb:
    """Return lightness, green-red and blue-yellow of a hex colour."""
    r, g, b = _linear(colour)
    long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    medium = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
    )


def level(activation: float | int, maximum: float | int) -> int:
    """Return the step of the ramp, 0..`LEVELS`, of `activation`; anything positive is at least 1.

    >>> [level(a, 8.0) for a in (-1.0, 0.0, 1e-9, 4.0, 8.0, 80.0, float("inf"), float("nan"))]
    [0, 0, 1, 8, 16, 16, 16, 0]
    >>> level(float("inf"), float("inf"))
    16
    """
    if not activation > 0 or not maximum > 0:
        return 0
    if activation >= maximum:  # infinite ones too, whose ratio is no number
        return LEVELS
    return max(1, round(activation / maximum * LEVELS))


def _hex(lab: Rgb) -> str:
    lightness, green_red, blue_yellow = lab
    long = (lightness + 0.3963377774 * green_red + 0.2158037573 * blue_yellow) ** 3
    medium = (lightness - 0.1055613458 * green_red - 0.0638541728 * blue_yellow) ** 3
    short = (lightness - 0.0894841775 * green_red - 1.2914855480 * blue_yellow) ** 3
    channels = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    return "#" + "".join(f"{round(255 * _gamma(c)):02x}" for c in channels)


def _gamma(value: float) -> float:
    value = min(max(value, 0.0), 1.0)
    return 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055


def _linear(colour: str) -> Rgb:
    def channel(start: int) -> float:
        value = int(colour[start : start + 2], 16) / 255
        return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4

    return channel(1), channel(3), channel(5)


def _luminance(colour: str) -> float:
    r, g, b = _linear(colour)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
