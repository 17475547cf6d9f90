import numpy as np
import pytest

from data_pipeline.faces.picture import network_picture


def test_a_picture_is_the_square_about_the_box():
    frame = np.zeros((100, 120, 3), np.uint8)
    frame[20:70, 40:90] = 200
    assert (network_picture(frame, np.array([40, 20, 90, 70])) > 100).mean() > 0.97
    # A box of twice the side shows the bright square as its middle quarter.
    wide = network_picture(frame, np.array([15, -5, 115, 95]))
    assert wide[56, 56] > 190 and wide[5, 5] == 0
    assert (wide > 100).mean() == pytest.approx(0.25, abs=0.02)
    assert network_picture(frame, np.array([500, 500, 520, 520])).max() == 0
