"""What holds for class ids everywhere, and colours for those without."""
import colorsys

#: What is not labelled, not predicted or has no data; ids are below it.
IGNORE = 255
GOLDEN = 0.61803398875  # of a circle: as steps, they spread hues evenly
Colour = tuple[int, int, int]


def spread_colours(count: int) -> list[Colour]:
    """Colours of the ids 0 to count - 1, each unlike those next to it."""
    return [_colour(class_id) for class_id in range(count)]


def _colour(class_id: int) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(
        class_id * GOLDEN % 1, 0.75 - 0.3 * (class_id % 2), 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)
