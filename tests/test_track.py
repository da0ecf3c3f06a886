"""Tracking: which id each box gets, and where its sides are put."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from nanogfl.detections import Detections
from nanogfl.errors import UsageError
from nanogfl.runtime.track import ACCELERATION, CONFIRMED, SHARE, SPEED, Tracked, Tracker

SIZE = (480, 640)
Box = Sequence[float]


def found(
    boxes: Sequence[Box], scores: Sequence[float] | None = None, labels: Sequence[int] | None = None, sigma: float = 0
) -> Detections:
    """Detections of two classes; one sigma for all sides where it is not 0."""
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(count, 4),
        np.array(scores if scores is not None else [0.9] * count, np.float32),
        np.array(labels if labels is not None else [0] * count, np.int64),
        ["cat", "dog"],
        np.full((count, 4), sigma, np.float32) if sigma else None,
    )


def walk(tracker: Tracker, frames: Sequence[Detections], step_s: float = 0.04, score: float = 0.3) -> list[Tracked]:
    return [tracker.update(f, SIZE, score=score, time_s=i * step_s) for i, f in enumerate(frames)]


def moved(box: Box, dx: float, dy: float = 0) -> list[float]:
    return [box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy]


A, B = (100, 100, 160, 220), (400, 100, 460, 220)


@pytest.mark.parametrize("iou", [0.0, -0.1, 1.1, float("nan")])
def test_an_overlap_that_all_boxes_have_is_refused(iou: float) -> None:
    """With 0, boxes that touch nowhere were matched without end."""
    with pytest.raises(UsageError, match=r"must be above 0 and at most 1"):
        Tracker(iou=iou)
    assert len(walk(Tracker(iou=1.0), [found([A])] * 4)[-1].ids) == 1


@pytest.mark.parametrize("hold_s", [-0.1, float("inf"), float("nan")])
def test_a_time_to_hold_that_never_ends_is_refused(hold_s: float) -> None:
    with pytest.raises(UsageError, match=r"^--hold .*: must be at least 0 seconds$"):
        Tracker(hold_s=hold_s)


# --- ids ---


def test_an_object_gets_its_id_at_the_third_sighting_and_keeps_it() -> None:
    frames = [found([moved(A, 5 * i)]) for i in range(20)]
    assert [t.ids.tolist() for t in walk(Tracker(), frames)] == [[0]] * (CONFIRMED - 1) + [[1]] * (21 - CONFIRMED)


def test_a_flicker_uses_up_no_id() -> None:
    tracker = Tracker()
    walk(tracker, [found([A]), found([])] + [found([B])] * 5)
    assert tracker.count == 1
    twice = Tracker()
    walk(twice, [found([A])] * 2 + [found([])])
    assert twice.count == 0, "two sightings are a flicker too"


def test_two_that_cross_keep_their_ids() -> None:
    """They pass each other, seen as one for a moment; the velocity tells who is who."""
    frames = []
    for i in range(60):
        left, right = moved(A, 5 * i), moved(B, -5 * i, 30)
        frames.append(found([left] if abs(left[0] - right[0]) < 4 else [left, right]))
    tracked = walk(Tracker(), frames)
    by_id = dict(zip(tracked[10].ids.tolist(), tracked[10].detections.boxes[:, 1] > 115, strict=True))
    assert tracked[-1].ids.tolist() == [1, 2]
    assert dict(zip(tracked[-1].ids.tolist(), tracked[-1].detections.boxes[:, 1] > 115, strict=True)) == by_id


@pytest.mark.parametrize(("gap", "same"), [(5, True), (24, True), (27, False)])
def test_an_id_is_held_for_a_second(gap: int, same: bool) -> None:
    frames = [found([A])] * 5 + [found([])] * gap + [found([A])] * 5
    tracked = walk(Tracker(hold_s=1.0), frames)
    assert tracked[4].ids.tolist() == [1]
    assert tracked[-1].ids.tolist() == [1 if same else 2]
    assert walk(Tracker(), frames)[-1].ids.tolist() == tracked[-1].ids.tolist(), "a second unless told"


def test_from_frame_to_frame_an_id_is_always_held() -> None:
    """A picture every two seconds, and no patience."""
    tracker = Tracker(hold_s=0)
    assert walk(tracker, [found([A])] * 5, step_s=2)[-1].ids.tolist() == [1]
    assert tracker.update(found([]), SIZE, time_s=10).ids.tolist() == []
    assert tracker.update(found([A]), SIZE, time_s=10.04).ids.tolist() == [0]


def test_nothing_is_invented_while_an_object_is_unseen() -> None:
    tracked = walk(Tracker(), [found([A])] * 5 + [found([])])
    assert len(tracked[-1].detections) == 0 and tracked[-1].ids.shape == (0,)


def test_a_fast_object_is_met_where_it_is_expected() -> None:
    """40 px a frame and 60 wide: without the velocity the overlap would be 0.2."""
    frames = [found([moved(A, dx)]) for dx in (0, 10, 25, 45, 70, 100, 135, 175, 215, 255, 295)]
    tracked = walk(Tracker(), frames)
    assert [t.ids.tolist() for t in tracked[2:]] == [[1]] * 9


def test_faint_detections_continue_but_do_not_begin() -> None:
    frames = [found([A, B], [0.9, 0.2])] * 4 + [found([A, B], [0.2, 0.15])] * 4
    tracked = walk(Tracker(), frames)
    assert [t.ids.tolist() for t in tracked[3:]] == [[1]] * 5
    assert [t.detections.scores.tolist() for t in tracked[-1:]] == [[pytest.approx(0.2)]]


def test_a_score_of_exactly_the_lowest_begins_nothing() -> None:
    tracked = walk(Tracker(), [found([A, B], [0.5, 0.25])] * 4, score=0.25)
    assert [len(t.ids) for t in tracked] == [1] * 4


def test_a_clear_detection_is_not_given_away_to_a_faint_one() -> None:
    """The faint one lies nearer, but the clear one has the first choice."""
    frames = [found([A])] * 4 + [found([moved(A, 12), A], [0.8, 0.2])]
    tracked = walk(Tracker(smooth=False), frames)
    assert tracked[-1].ids.tolist() == [1]
    assert tracked[-1].detections.boxes[0].tolist() == moved(A, 12)


def test_classes_are_not_mixed() -> None:
    frames = [found([A], labels=[0])] * 5 + [found([A], labels=[1])] * 5
    assert walk(Tracker(), frames)[-1].ids.tolist() == [2]


def test_a_part_of_an_object_gets_no_id_until_it_stands_alone() -> None:
    part = (105, 110, 150, 160)
    frames = [found([A, part], [0.9, 0.5])] * 6 + [found([A, moved(part, 100)], [0.9, 0.5])] * CONFIRMED
    tracked = walk(Tracker(), frames)
    assert [t.ids.tolist() for t in tracked[2:6]] == [[1, 0]] * 4
    assert tracked[-1].ids.tolist() == [1, 2]
    leaning = (85, 110, 145, 160)  # three quarters of it inside
    assert walk(Tracker(), [found([A, leaning], [0.9, 0.5])] * 4)[-1].ids.tolist() == [1, 0]
    other = walk(Tracker(), [found([A, part], [0.9, 0.5], [0, 1])] * 4)
    assert other[-1].ids.tolist() == [1, 2], "of another class it is another thing"


def test_best_first_whatever_the_age() -> None:
    tracked = walk(Tracker(), [found([A])] * 4 + [found([B, A], [0.95, 0.6])] * 3)
    assert tracked[-1].ids.tolist() == [2, 1]
    assert tracked[-1].detections.scores.tolist() == pytest.approx([0.95, 0.6])
    assert tracked[4].ids.tolist() == [0, 1], "a new one stands before those that were known"


def test_frames_without_time_count_on() -> None:
    for hold_s, ids in ((0.35, [0]), (0.45, [1])):
        tracker = Tracker(hold_s=hold_s)
        for boxes in ([A], [A], [A], [], [], []):
            tracker.update(found(boxes), SIZE)
        assert tracker.update(found([A]), SIZE).ids.tolist() == ids, "0.4 s unseen"


def test_a_clock_that_stands_or_runs_back_is_borne() -> None:
    tracker = Tracker()
    for time_s in (1.0, 1.0, 0.5, 1.2):
        tracked = tracker.update(found([A]), SIZE, time_s=time_s)
    assert tracked.ids.tolist() == [1] and np.isfinite(tracked.detections.boxes).all()
    stood, ran_back = Tracker(), Tracker()
    for i in range(6):
        box = found([moved(A, 8 * i)])
        standing = stood.update(box, SIZE, time_s=min(i, 4) * 0.1).detections.boxes
        back = ran_back.update(box, SIZE, time_s=(i if i < 5 else 1) * 0.1).detections.boxes
    np.testing.assert_array_equal(back, standing)


# --- sides ---


def test_own_boxes_where_they_are_asked_for() -> None:
    rng = np.random.default_rng(0)
    frames = [found([np.array(A) + rng.normal(0, 3, 4)]) for _ in range(10)]
    for tracked, frame in zip(walk(Tracker(smooth=False), frames), frames, strict=True):
        np.testing.assert_array_equal(tracked.detections.boxes, frame.boxes)


@pytest.mark.parametrize("sigma", [0.0, 12.0])
def test_a_shaking_box_is_steadied(sigma: float) -> None:
    rng = np.random.default_rng(0)
    truth = np.array(A, float)
    frames = [found([truth + rng.normal(0, 3, 4)], sigma=sigma) for _ in range(100)]
    steady = np.array([t.detections.boxes[0] for t in walk(Tracker(), frames)])[20:]
    raw = np.array([f.boxes[0] for f in frames])[20:]
    shake = [np.abs(np.diff(b, 2, axis=0)).mean() for b in (raw, steady)]
    assert shake[1] < 0.5 * shake[0]
    assert np.abs(steady - truth).mean() < np.abs(raw - truth).mean()


def test_constant_motion_is_followed_without_lag() -> None:
    frames = [found([moved(A, 4 * i)], sigma=2) for i in range(50)]
    last = walk(Tracker(), frames)[-1].detections.boxes[0]
    assert last == pytest.approx(moved(A, 4 * 49), abs=0.05)


def test_a_sure_side_is_followed_and_a_vague_one_smoothed() -> None:
    """Left and right side jump by 20 px; the model is sure of the left one only."""
    tracker = Tracker()
    deviation = np.array([[0.5, 8, 120, 8]], np.float32)
    for i in range(20):
        box = np.array([A], np.float32) + (20 if i == 19 else 0)
        made = Detections(box, np.ones(1, np.float32), np.zeros(1, np.int64), ["cat"], deviation)
        out = tracker.update(made, SIZE, time_s=i * 0.04).detections.boxes[0]
    assert out[0] - A[0] > 10, "left: sure"
    assert 0 < out[2] - A[2] < 4, "right: vague"


def test_boxes_stay_in_the_frame() -> None:
    frames = [found([(600 + 4 * i, 100, 640, 220)], sigma=5) for i in range(9)]
    for tracked in walk(Tracker(), frames):
        x1, y1, x2, y2 = tracked.detections.boxes.T
        assert (x1 >= 0).all() and (x2 <= 640).all() and (y1 >= 0).all() and (y2 <= 480).all()


def test_what_is_filtered_beyond_the_frame_is_cut() -> None:
    """It runs against the right border and stops there, which the velocity does not know."""
    frames = [found([moved((400, 100, 460, 220), min(15 * i, 180))], sigma=20) for i in range(16)]
    right = [float(t.detections.boxes[0, 2]) for t in walk(Tracker(), frames)]
    assert max(right) == 640


def test_a_model_that_is_wholly_sure_is_believed_to_half_a_pixel() -> None:
    """A side whose distribution is one bin has no deviation; at the same moment nothing else is unsure either."""
    tracker, sure = Tracker(), np.zeros((1, 4), np.float32)
    for _ in range(3):
        made = Detections(np.array([A], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64), ["cat"], sure)
        assert tracker.update(made, SIZE, time_s=1.0).detections.boxes.tolist() == [list(A)]


def kalman(measured: NDArray[np.float64], noise: float, length: float, dt: float) -> list[float]:
    """One side by the textbook: 2x2 matrices, white acceleration."""
    state, push = np.array([measured[0], 0.0]), (ACCELERATION * length) ** 2
    spread = np.diag([noise**2, (SPEED * length) ** 2])
    move, gust = np.array([[1, dt], [0, 1]]), push * np.array([[dt**4 / 4, dt**3 / 2], [dt**3 / 2, dt**2]])
    places = [state[0]]
    for z in measured[1:]:
        state, spread = move @ state, move @ spread @ move.T + gust
        gain = spread[:, 0] / (spread[0, 0] + noise**2)
        state = state + gain * (z - state[0])
        spread = spread - np.outer(gain, spread[0])
        places.append(state[0])
    return places


def test_the_filter_is_the_textbooks() -> None:
    """A box that moves stiffly, so that its extent, which the noise scales with, stays the same."""
    rng = np.random.default_rng(1)
    shift = rng.normal(0, 2, 25).cumsum()
    frames = [found([moved(A, dx)], sigma=4) for dx in shift]
    ours = [t.detections.boxes[0, 0] for t in walk(Tracker(), frames)]
    assert ours == pytest.approx(kalman(A[0] + shift, 4 * SHARE, 60, 0.04), abs=1e-3)


def test_no_box_is_inside_out() -> None:
    """Each side is filtered alone; where a box shrinks fast, two of them may cross."""
    rng = np.random.default_rng(0)
    count = 0
    for sigma in (2.0, 12.0, 40.0) * 30:
        tracker, centre, side, shrinks = Tracker(), rng.uniform(150, 330, 2), rng.uniform(4, 60, 2), rng.uniform(0.8, 1)
        for i in range(30):
            side = np.maximum(2, side * shrinks)
            box = np.concatenate([centre - side / 2, centre + side / 2]) + rng.normal(0, 0.5, 4)
            if rng.random() < 0.7:
                boxes = tracker.update(found([tuple(box)], sigma=sigma), SIZE, time_s=i / 10).detections.boxes
                count += len(boxes)
                assert (boxes[:, :2] <= boxes[:, 2:]).all()
    assert count > 1500


def test_what_is_gone_is_forgotten() -> None:
    """Memory does not grow with the objects that passed."""
    tracker = Tracker(hold_s=0.2)
    for i in range(300):
        x, y = 40 * (i % 15), 40 * (i // 15 % 10)
        tracker.update(found([(x, y, x + 30, y + 30)]), SIZE, time_s=i * 0.1)
    assert len(tracker._ids) <= 3
