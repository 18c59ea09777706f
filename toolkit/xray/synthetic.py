"""Generated knee X-rays, so that every command works before any data is at hand.

Each is a drawing of a frontal knee whose signs follow its Kellgren-Lawrence grade: the joint
space narrows, osteophytes grow at the four corners of the joint, and the bone beside the
joint becomes denser. All else (anatomy, place, tilt, exposure, noise, side) is drawn
independently of the grade. They look like knees to a network, not to a radiologist, and a
model that learned from them has learned nothing about patients.

Pixels are computed with `+ - * /` and a square root in float32 only: these round the same way
everywhere, so that a seed gives the same bytes on any machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import UsageError

SIZE = 224
FIRST_PATIENT = 9_000_001
MOST = 2 * (10_000_000 - FIRST_PATIENT)

# One value per grade 0..4: pixels, pixels, and added attenuation. A knee's own lie evenly within
# the jitter. Joint space and osteophytes are sharp edges, which an edge map shows whatever the
# contrast; sclerosis is a soft gradient that the X-ray shows better, and tells 2 from 3. With
# either told by both inputs equally well, a network would settle on one of them.
JOINT_SPACE = (15.5, 13.0, 10.5, 7.5, 2.0)
JOINT_SPACE_JITTER = 1.0
OSTEOPHYTE = (0.0, 2.0, 4.0, 8.0, 11.0)
OSTEOPHYTE_JITTER = 1.5
SCLEROSIS = (0.0, 0.01, 0.03, 0.17, 0.22)
SCLEROSIS_JITTER = 0.04

Plane = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class GeneratedXray:
    """One generated X-ray of one knee.

    Attributes:
        name: seven digits for the patient, then `L` or `R` for the knee, as in `9000001L`.
        grade: Kellgren-Lawrence grade, 0..4.
        pixels: uint8 (224, 224), bright where the ray is stopped. As on a frontal X-ray, the
            outer side of a right knee is on the viewer's left.
    """

    name: str
    grade: int
    pixels: NDArray[np.uint8]


def generate(
    count: int, seed: int = 0, grades: Sequence[int] = (0, 2, 3, 4)
) -> list[GeneratedXray]:
    """Draw `count` X-rays from a seed: the same arguments give the same bytes.

    Every patient has both knees, left then right; with an odd count the last has only the left.
    The knees of a patient share their anatomy and exposure, not their grade. The grades occur
    equally often, to within one, in a random order. What is drawn of a patient besides the
    grades depends on the seed and the patient's number only, not on `count`.

    Args:
        count: how many X-rays, at least 1.
        seed: 0 or more.
        grades: the Kellgren-Lawrence grades to draw, each of 0..4 at most once.

    Raises:
        UsageError: an argument is outside its range.
    """
    _check(count, seed, grades)
    # To free one large block makes glibc keep the memory of smaller ones. Without it every plane
    # is handed back to the system and fetched again, which takes half of the time.
    np.empty(1 << 22, dtype=np.uint8)
    dealt = _deal(count, seed, grades)
    return [_xray(seed, index, int(grade)) for index, grade in enumerate(dealt)]


def _check(count: int, seed: int, grades: Sequence[int]) -> None:
    if not 1 <= count <= MOST:
        raise UsageError(f"cannot generate {count} X-rays: ask for 1 to {MOST}")
    if seed < 0:
        raise UsageError(f"the seed is {seed}: give 0 or more")
    if not grades or len(set(grades)) < len(grades) or not set(grades) <= set(range(5)):
        given = ", ".join(str(grade) for grade in grades) or "none"
        raise UsageError(f"the grades to draw are {given}: give each of 0 to 4 at most once")


def _deal(count: int, seed: int, grades: Sequence[int]) -> NDArray[np.int64]:
    """Return a grade per X-ray, int64 (count,): of each count/len(grades), give or take 1."""
    rng = np.random.default_rng([seed, 0])
    order = rng.permutation(np.asarray(grades, dtype=np.int64))
    return rng.permutation(np.resize(order, count))


def _xray(seed: int, index: int, grade: int) -> GeneratedXray:
    patient, side = divmod(index, 2)
    anatomy = _Anatomy(np.random.default_rng([seed, 1, patient]))
    knee = np.random.default_rng([seed, 2, patient, side])
    plane = _Drawing(anatomy, _Signs(grade, knee), knee).plane
    pixels = _expose(plane, anatomy, knee)
    # Drawn as a right knee. The noise is in already, so a flip leaves no trace but the anatomy.
    if side == 0:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    return GeneratedXray(f"{FIRST_PATIENT + patient}{'LR'[side]}", grade, pixels)


class _Anatomy:
    """What both knees of a patient share: shape (lengths in pixels) and exposure."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.size = rng.uniform(0.94, 1.06)
        self.femur_width = rng.uniform(84, 92)
        self.tibia_width = rng.uniform(82, 90)
        self.notch_height = rng.uniform(22, 32)
        self.notch_width = rng.uniform(24, 32)
        self.spine = rng.uniform(9, 15)
        self.fibula_top = rng.uniform(40, 58)
        self.patella = rng.uniform(-75, -52)
        self.leg_width = rng.uniform(98, 135)
        self.trabeculae = rng.uniform(0.05, 0.2)
        self.brightness = rng.uniform(-0.12, 0.12)
        self.contrast = rng.uniform(0.4, 1.2)
        self.curve = rng.uniform(-0.45, 0.45)
        self.noise = self.contrast * rng.uniform(0.02, 0.09)


class _Signs:
    """What a grade shows in one knee; the only place where the grade enters a drawing."""

    def __init__(self, grade: int, rng: np.random.Generator) -> None:
        self.joint_space = JOINT_SPACE[grade] + JOINT_SPACE_JITTER * rng.uniform(-1, 1)
        # Femur outer and inner corner, then tibia outer and inner, in pixels beyond the bone.
        spurs = OSTEOPHYTE[grade] + OSTEOPHYTE_JITTER * rng.uniform(-1, 1, size=4)
        self.osteophytes = [max(0.0, float(spur)) for spur in spurs]
        self.sclerosis = max(0.0, SCLEROSIS[grade] + SCLEROSIS_JITTER * rng.uniform(-1, 1))


class _Drawing:
    """A right knee as attenuation: `plane`, float32 (224, 224), about 0.1 (air) to 1.1 (rims).

    `x` runs from the outer (negative) to the inner side and `y` from thigh to foot, in pixels
    of an upright knee of size 1 whose joint is at the origin.
    """

    def __init__(self, anatomy: _Anatomy, signs: _Signs, rng: np.random.Generator) -> None:
        self.anatomy, self.signs = anatomy, signs
        self.x, self.y = _grid(anatomy.size, rng)
        self.away = np.abs(self.x)
        self.inner = _step(self.x / 30)
        # The inner and the outer half of a joint are seldom equally wide.
        uneven = rng.uniform(-0.3, 0.3)
        self.half_space = 0.5 * signs.joint_space * (1 + uneven * (2 * self.inner - 1))
        texture = _trabeculae(rng) * anatomy.trabeculae

        femur, tibia = self._femur_depth(), self._tibia_depth()
        self.plane = self._soft_tissue()
        self.plane += self._bone(femur, texture) + self._bone(tibia, texture)
        self.plane += self._fibula(texture, _step(tibia)) + self._patella(rng, _step(femur))
        self.plane += self._growth_lines(rng, _step(femur), _step(tibia))

    def _femur_depth(self) -> Plane:
        """Pixels inside the femur: two lobes that bend up to the sides, a notch between."""
        a = self.anatomy
        lower = -self.half_space - a.notch_height * _bump(self.x / a.notch_width)
        lower -= 0.0035 * (self.away - 44) ** 2 + 0.012 * _positive(self.away - 64) ** 2
        outer, inner, _, _ = self.signs.osteophytes
        spur = outer + (inner - outer) * self.inner
        width = a.femur_width - 24 * _step((-78 - self.y) / 74)
        width += spur * _bump((self.y - lower + 9) / 13)
        depth: Plane = np.minimum(lower - self.y, width - self.away)
        return depth

    def _tibia_depth(self) -> Plane:
        """Pixels inside the tibia: a plateau with two spines, narrowing to the shaft."""
        a = self.anatomy
        spines = _bump((self.x + 9) / 10) + 1.2 * _bump((self.x - 8) / 11)
        upper = self.half_space - a.spine * spines
        upper += 2 * _bump((self.away - 44) / 30) - 2 + 0.02 * _positive(self.away - 74) ** 2
        _, _, outer, inner = self.signs.osteophytes
        spur = outer + (inner - outer) * self.inner
        width = a.tibia_width - 32 * _step((self.y - 60) / 92)
        width += spur * _bump((self.y - upper - 6) / 12)
        depth: Plane = np.minimum(self.y - upper, width - self.away)
        return depth

    def _bone(self, depth: Plane, texture: Plane) -> Plane:
        """A bright rim, spongy inside, and sclerosis that fades within 24 pixels of the joint."""
        inside = 0.28 + texture + 0.16 * _bump((depth - 2) / 2.5)
        from_joint = np.abs(self.y) - self.half_space
        dense = _positive(1 - from_joint / 24) ** 2 * _step((self.away - 22) / 16)
        inside += self.signs.sclerosis * dense
        bone: Plane = inside * _step(depth / 1.5)
        return bone

    def _soft_tissue(self) -> Plane:
        """A leg whose thickness, seen from the front, falls off in a half circle."""
        across = self.x / self.anatomy.leg_width
        thickness = np.sqrt(_positive(1 - across * across))
        return 0.08 + 0.27 * thickness - 0.05 * _bump(self.y / 30) * _step((96 - self.away) / 20)

    def _fibula(self, texture: Plane, behind: Plane) -> Plane:
        top = self.anatomy.fibula_top
        below = self.y - top
        width = 15 - 0.05 * np.minimum(_positive(below - 12), 90)
        rounded = 0.022 * _positive(14 - below) ** 2
        depth = np.minimum(width - rounded - np.abs(self.x + 74), below)
        inside = 0.17 + texture + 0.12 * _bump((depth - 2) / 2.5)
        bone: Plane = inside * _step(depth / 1.5) * (1 - 0.6 * behind)
        return bone

    def _patella(self, rng: np.random.Generator, femur: Plane) -> Plane:
        across = (self.x - rng.uniform(-14, 14)) / 42
        along = (self.y - self.anatomy.patella) / 36
        radius = across * across + along * along
        return (0.07 * _step((1 - radius) * 5) + 0.03 * _bump((radius - 0.95) / 0.12)) * femur

    def _growth_lines(self, rng: np.random.Generator, femur: Plane, tibia: Plane) -> Plane:
        bend = self.x * self.x
        upper = _bump((self.y + rng.uniform(52, 64) + rng.uniform(-0.002, 0.002) * bend) / 2.2)
        lower = _bump((self.y - rng.uniform(36, 46) + rng.uniform(-0.002, 0.002) * bend) / 2.2)
        return rng.uniform(0, 0.07) * upper * femur + rng.uniform(0, 0.07) * lower * tibia


def _grid(size: float, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Return where each pixel lies in the knee, `x` and `y`: shifted, tilted by up to 5 degrees."""
    shift = rng.uniform(-9, 9, size=2)
    half = rng.uniform(-0.044, 0.044)
    # Cosine and sine from the tangent of half the angle: exact arithmetic, unlike a library's.
    cos, sin = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    place = np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2
    across = ((place - np.float32(shift[0])) / np.float32(size))[None, :]
    along = ((place - np.float32(shift[1])) / np.float32(size))[:, None]
    x = np.float32(cos) * across + np.float32(sin) * along
    y = np.float32(cos) * along - np.float32(sin) * across
    return x, y


def _trabeculae(rng: np.random.Generator) -> Plane:
    """Draw fine upright streaks, float32 (224, 224), mean 0, standard deviation about 0.5."""
    grain = rng.random((SIZE + 8, SIZE + 1), dtype=np.float32) - np.float32(0.5)
    grain = grain[:, 1:] + grain[:, :-1]
    grain = grain[:-1] + grain[1:]
    grain = grain[:-2] + grain[2:]
    grain = grain[:-5] + grain[5:]
    return grain * np.float32(0.45)


def _expose(plane: Plane, anatomy: _Anatomy, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turn attenuation to grey: contrast, brightness, film curve and noise, then 8 bits."""
    brightness = anatomy.brightness + rng.uniform(-0.04, 0.04)
    contrast = anatomy.contrast * rng.uniform(0.93, 1.07)
    light = (plane - 0.45) * np.float32(contrast) + np.float32(0.48 + brightness)
    light = np.clip(light, 0, 1)
    light += np.float32(anatomy.curve) * light * (1 - light)
    grain = rng.random((2, SIZE, SIZE), dtype=np.float32)
    light += (grain[0] - grain[1]) * np.float32(anatomy.noise)
    grey: NDArray[np.uint8] = np.rint(np.clip(light, 0, 1) * np.float32(255)).astype(np.uint8)
    return grey


def _positive(t: Plane) -> Plane:
    return np.maximum(t, np.float32(0))


def _step(t: Plane) -> Plane:
    """Return 0 below -0.5, 1 above 0.5, smooth between."""
    s: Plane = np.clip(t + np.float32(0.5), 0, 1)
    return s * s * (3 - 2 * s)


def _bump(t: Plane) -> Plane:
    """Return 1 at 0, 0 beyond -1 and 1, smooth between."""
    s = _positive(1 - t * t)
    return s * s
