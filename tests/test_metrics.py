import numpy as np, pytest, warnings
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import confusion_matrix, jaccard_score
from rim.measure.metrics import bootstrap, confusion, iou, mean_iou, paired_bootstrap


@st.composite
def label_maps(draw):
    classes, shape = draw(st.integers(1, 8)), draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    dtype = draw(st.sampled_from([np.uint8, np.int32, np.int64]))
    labels = st.integers(0, classes - 1)
    return (
        draw(hnp.arrays(dtype, shape, elements=labels)),
        draw(hnp.arrays(dtype, shape, elements=labels | st.just(255))),
        classes,
    )


@given(label_maps())
def test_equal_to_scikit_learn(maps):
    prediction, truth, classes = maps
    matrix = confusion(prediction, truth, classes)
    valid = truth != 255
    assert matrix.dtype == np.int64 and matrix.sum() == valid.sum()
    if not valid.any():
        return
    p, t = prediction[valid].astype(int), truth[valid].astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of absent classes
        assert (matrix == confusion_matrix(t, p, labels=range(classes))).all()
        expected = jaccard_score(t, p, labels=range(classes), average=None, zero_division=0)
    ours, present = iou(matrix), np.isin(np.arange(classes), np.union1d(p, t))
    assert np.isnan(ours[~present]).all() and np.allclose(ours[present], expected[present], atol=1e-12)
    assert mean_iou(matrix) == pytest.approx(expected[present].mean(), abs=1e-12)


@given(label_maps(), st.integers(0, 7))
def test_any_label_may_be_the_ignored_one(maps, ignore):
    prediction, truth, classes = maps
    truth = np.where(truth == 255, 0, truth)
    assert (
        confusion(prediction, truth, classes, ignore=ignore)
        == confusion(prediction[truth != ignore], truth[truth != ignore], classes)
    ).all()


@pytest.mark.parametrize("classes", [2, 21, 171, 255, 256, 700])
def test_any_number_of_classes(classes, rng):
    truth, prediction = rng.integers(0, classes, (2, 50, 60))
    assert (
        confusion(prediction, truth, classes, ignore=None)
        == confusion_matrix(truth.ravel(), prediction.ravel(), labels=range(classes))
    ).all()


def test_nothing_is_lost_silently():
    zeros = np.zeros((2, 2), int)
    for prediction, truth, ignore, word in [
        (zeros + 3, zeros, 255, "prediction"),
        (zeros - 1, zeros, 255, "prediction"),
        (zeros + 255, zeros, 255, "prediction"),
        (zeros, zeros + 3, 255, "truth"),
        (zeros, zeros - 1, 255, "truth"),
        (zeros, zeros + 255, None, "truth"),
        (zeros + 0.5, zeros, 255, "integers"),
        (zeros[:1], zeros, 255, "shape"),
    ]:
        with pytest.raises(ValueError, match=word):
            confusion(prediction, truth, 3, ignore)
    assert confusion(zeros, zeros - 1, 3, ignore=-1).sum() == 0


def test_inputs_are_left_alone():
    truth = np.full((2, 2), 255, np.uint8)
    confusion(np.zeros((2, 2), np.uint8), truth, 3)
    assert (truth == 255).all()


def test_absent_classes_are_nan_and_do_not_count():
    matrix = np.zeros((3, 3), int)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(iou(matrix)).all() and np.isnan(mean_iou(matrix))
        matrix[1, 1] = 4
        assert mean_iou(matrix) == 1.0 and np.isnan(mean_iou(matrix, skip=(1,)))


@pytest.fixture
def confusions(rng):
    return rng.integers(0, 50, (40, 3, 3)) + 200 * np.eye(3, dtype=int)


def test_the_interval_is_seeded_and_holds_the_estimate(confusions):
    low, middle, high = bootstrap(confusions, 200, seed=1)
    assert low < middle < high and middle == mean_iou(confusions.sum(0))
    assert bootstrap(confusions, 200, seed=1) == (low, middle, high) != bootstrap(confusions, 200, seed=2)


@given(
    st.integers(1, 6).flatmap(
        lambda n: hnp.arrays(np.int64, (n, 3, 3), elements=st.sampled_from([0, 0, 0, 0, 1, 2, 40]))
    ),
    st.integers(0, 5),
)
def test_an_estimate_lies_inside_its_interval_where_draws_lack_a_class(confusions, seed):
    values = bootstrap(confusions, 20, seed)
    assert np.isnan(values[1]) or values[0] <= values[1] <= values[2]
    low, middle, high = paired_bootstrap(confusions, confusions[::-1], 20, seed)
    assert np.isnan(middle) or low <= middle <= high


def test_resampling_equals_a_naive_loop(confusions):
    from rim.measure.metrics import draw_weights, resample_miou

    weights = draw_weights(len(confusions), 20, seed=3)
    assert (weights.sum(1) == 40).all()
    naive = [mean_iou(np.repeat(confusions, w, axis=0).sum(0)) for w in weights]
    assert np.allclose(resample_miou(confusions, weights), naive, atol=1e-12)


def test_one_image_has_no_spread(confusions):
    low, middle, high = bootstrap(confusions[:1], 10)
    assert low == middle == high
    with pytest.raises(ValueError, match="at least one image"):
        bootstrap(confusions[:0], 10)


def test_pairs_are_drawn_together(confusions):
    assert paired_bootstrap(confusions, confusions, 50) == (0.0, 0.0, 0.0)
    worse = confusions + 5
    low, difference, high = paired_bootstrap(confusions, worse, 200)
    assert 0 < low < difference < high and difference == pytest.approx(
        mean_iou(confusions.sum(0)) - mean_iou(worse.sum(0))
    )
    with pytest.raises(ValueError, match="same images"):
        paired_bootstrap(confusions, worse[:5])


@pytest.mark.promise(34)
def test_a_class_can_not_be_the_label_that_does_not_count():
    with pytest.raises(ValueError, match="none of the classes 0..299, got 255"):
        confusion(np.zeros((2, 2), int), np.zeros((2, 2), int), 300)


def test_nothing_scored_is_nan_without_a_word(recwarn):
    low, middle, high = bootstrap(np.zeros((3, 2, 2), int), draws=20)
    assert np.isnan([low, middle, high]).all() and not list(recwarn)
