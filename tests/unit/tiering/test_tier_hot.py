"""What is hot: reads that count less as they age, in bounded memory."""

from monofs.model.ids import ContentId
from monofs.tiering.hot import HALF_LIFE_NS, KEPT, Hot


def ids(most):
    return [content for content, _ in most]


def test_what_is_read_more_is_hotter_and_a_read_counts_half_after_a_half_life():
    hot = Hot(0)
    for _ in range(4):
        hot.touched(ContentId(1), 0)
    hot.touched(ContentId(2), 0)
    assert hot.most(10, 0) == [(1, 4.0), (2, 1.0)]
    assert hot.most(1, HALF_LIFE_NS) == [(1, 2.0)]
    for _ in range(3):
        hot.touched(ContentId(2), HALF_LIFE_NS)
    assert ids(hot.most(10, HALF_LIFE_NS)) == [2, 1], "three reads now are more than four long ago"


def test_memory_is_bounded_and_what_is_hot_outlives_a_scan():
    hot = Hot(0)
    for _ in range(3):
        hot.touched(ContentId(7), 0)
    for content in range(100, 100 + 10 * KEPT):
        hot.touched(ContentId(content), content)
    assert len(hot.most(10**9, 0)) <= 2 * KEPT
    assert ids(hot.most(1, 0)) == [7]


def test_counting_goes_on_for_years_and_over_clocks_set_back():
    hot = Hot(10**9)
    day_ns = 86_400 * 10**9
    for day in range(3_000):
        hot.touched(ContentId(day), 10**9 + day * day_ns)
    (first, reads), *_ = hot.most(5, 10**9 + 2_999 * day_ns)
    assert first == 2_999
    assert 0.9 < reads < 1.1
    hot.touched(ContentId(5), 0)  # years before
    assert hot.most(5, 0) == [(5, 1.0)]
