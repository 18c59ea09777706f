import numpy as np
import pytest
from xray_files import noise

from toolkit.xray.copies import copies, differing, picture_key, unite


@pytest.mark.parametrize("shape", [(224, 224), (3, 5)])
def test_a_picture_and_its_mirror_image_are_one_and_others_are_not(shape):
    xray = noise(*shape)
    changed = xray.copy()
    changed[-1, -1] ^= 1
    key = picture_key(xray)
    assert key == picture_key(xray.copy()) == picture_key(np.fliplr(xray))
    assert key not in (picture_key(changed), picture_key(np.flipud(xray)), picture_key(~xray))


def test_copies_are_those_places_that_are_one_picture():
    assert copies([b"a", b"b", b"a", b"c", b"b", b"a"]) == [(0, 2, 5), (1, 4)]
    assert differing([(0, 2, 5), (1, 4)], "xyxyyz") == [(0, 5)]
    assert differing([(0, 1)], "xx") == []


def test_patients_that_pictures_connect_are_one():
    patients = ["d", "c", "b", "a", "e"]
    assert unite(patients, []) == patients
    assert unite(patients, [(0, 1), (2, 1)]) == ["b", "b", "b", "a", "e"]
    assert unite(patients, [(0, 1), (2, 3), (1, 3)]) == ["a", "a", "a", "a", "e"]
    assert unite(["a", "a", "b"], [(0, 1), (1, 2)]) == ["a", "a", "a"]
