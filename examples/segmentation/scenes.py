"""Street scenes drawn from a seed. The class of every pixel is known, so no data set is needed."""

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("sky", "road", "grass", "building", "tree", "car")
COLOURS = ((140, 180, 225), (95, 95, 100), (110, 150, 70), (170, 120, 90), (45, 100, 45), (190, 40, 45))


def scene(seed: int, height: int, width: int) -> tuple[Image.Image, np.ndarray]:
    """Return an RGB picture with random noise, light and colours, and its class indexes, uint8 [height, width]."""
    dice = np.random.default_rng(seed)
    mask = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(mask)
    horizon = int(height * dice.uniform(0.4, 0.6))
    draw.rectangle((0, horizon, width, height), fill=2)
    vanish, left, right = (dice.uniform(*span) * width for span in ((0.3, 0.7), (-0.2, 0.25), (0.75, 1.2)))
    draw.polygon([(vanish, horizon), (left, height), (right, height)], fill=1)
    for _ in range(dice.integers(1, 4)):
        x, wide, tall = dice.uniform(0, 0.9) * width, dice.uniform(0.12, 0.3) * width, dice.uniform(0.15, 0.4) * height
        draw.rectangle((x, horizon - tall, x + wide, horizon + 0.02 * height), fill=3)
    for _ in range(dice.integers(1, 4)):
        x, size = dice.uniform(0, 1) * width, dice.uniform(0.08, 0.2) * height
        draw.rectangle((x - size / 8, horizon - size, x + size / 8, horizon + size / 2), fill=4)
        draw.ellipse((x - size * 0.7, horizon - 2 * size, x + size * 0.7, horizon - size * 0.4), fill=4)
    for _ in range(dice.integers(1, 3)):
        x, y, size = dice.uniform(0.2, 0.7) * width, dice.uniform(0.62, 0.85) * height, dice.uniform(0.08, 0.15) * width
        draw.rounded_rectangle((x, y, x + 2 * size, y + size * 0.7), radius=size / 5, fill=5)
        draw.rectangle((x + size * 0.4, y - size * 0.4, x + size * 1.5, y + 1), fill=5)
    classes = np.asarray(mask).copy()
    colours = np.asarray(COLOURS, np.float64) + dice.normal(0, 14, (len(CLASSES), 3))
    shade = np.linspace(dice.uniform(0.85, 1.15), dice.uniform(0.85, 1.15), height)[:, None, None]
    picture = colours[classes] * shade * dice.uniform(0.8, 1.2) + dice.normal(0, 10, (height, width, 3))
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8)), classes
