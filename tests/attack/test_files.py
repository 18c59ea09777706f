"""20,000 damaged PNG, JPEG and DICOM files, most with right checksums."""

import pytest
from decoding import assert_bounded, outcomes
from mutations import mutated


@pytest.mark.timeout(900)
def test_20000_damaged_files_give_an_xray_or_an_image_error_in_bounded_time_and_memory(tmp_path):
    assert_bounded(outcomes(mutated(20_000, seed=20_000), tmp_path), 15)
