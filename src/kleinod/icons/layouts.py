"""Named colours, places and words of scenes. Places are on a canvas of SIZE pixels."""

SIZE = 128
BACKGROUNDS = {
    "white": (255, 255, 255),
    "black": (24, 24, 24),
    "gray": (150, 150, 150),
    "red": (214, 48, 49),
    "orange": (245, 150, 50),
    "yellow": (250, 220, 90),
    "green": (90, 180, 90),
    "teal": (40, 160, 155),
    "blue": (50, 100, 215),
    "sky blue": (150, 205, 245),
    "purple": (130, 80, 190),
    "pink": (250, 175, 200),
    "brown": (135, 95, 65),
}
TINTS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
CORNERS = {
    "top left": (40.0, 40.0),
    "top right": (88.0, 40.0),
    "bottom left": (40.0, 88.0),
    "bottom right": (88.0, 88.0),
}
PAIRS = {
    "to the left of": ((34, 64), (94, 64)),
    "to the right of": ((94, 64), (34, 64)),
    "above": ((64, 34), (64, 94)),
    "below": ((64, 94), (64, 34)),
}
GROUPS = {
    2: ((34, 64), (94, 64)),
    3: ((64, 34), (34, 94), (94, 94)),
    4: ((34, 34), (94, 34), (34, 94), (94, 94)),
}
TRIPLES = {
    "{0} and {1} above {2}": ((34, 34), (94, 34), (64, 94)),
    "{0} above {1} and {2}": ((64, 34), (34, 94), (94, 94)),
}
STYLE_PHRASES = {
    "cartoon": ("cartoon style", "cartoon"),
    "flat": ("flat style", "flat design"),
    "3D": ("3D style", "3D render"),
}
