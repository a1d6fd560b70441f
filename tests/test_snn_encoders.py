"""Encoders, event files, spoken digits: known answers, the same trains however they are cut, and damaged files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from snn import (
    CochleaEncoder,
    CurrentEncoder,
    Encoder,
    EventFrames,
    Events,
    EventSplit,
    LatencyEncoder,
    RateEncoder,
    SaccadeEncoder,
    TonicEvents,
    encoder_from_spec,
    load_nmnist,
    load_spoken_digits,
    read_events,
)

SMALL_SACCADE = SaccadeEncoder(steps=31, image=(6, 5), sensor=(12, 11), noise_rate_hz=20.0)
ENCODERS: dict[str, Encoder] = {
    "rate": RateEncoder(steps=31, seed=3),
    "poisson": RateEncoder(steps=31, law="poisson", peak_rate_hz=2000.0),
    "nalsm": RateEncoder(steps=31, share=True, full_scale=0.1),
    "current": CurrentEncoder(steps=31, gain=2.0, offset=-1.0),
    "latency": LatencyEncoder(steps=31),
    "logarithmic": LatencyEncoder(steps=31, law="logarithmic", threshold=0.2, tau_seconds=0.01),
    "saccade": SMALL_SACCADE,
}


@pytest.fixture
def x(device: torch.device) -> Tensor:
    """A batch of values in 0..1, some of them 0."""
    values = torch.rand(5, 30, generator=torch.Generator().manual_seed(7))
    return torch.where(values < 0.2, 0.0, values).to(device)


# ---- what all encoders share ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
@pytest.mark.parametrize("chunk", [1, 7, 31, 100])
def test_chunks_are_the_pieces_of_the_whole_train(encoder: Encoder, chunk: int, x: Tensor) -> None:
    pieces = list(encoder.chunks(x, 40, chunk_steps=chunk))
    whole = encoder.encode(x, 40)
    assert whole.device == x.device and whole.shape[:2] == (5, 31)
    assert [len(p[0]) for p in pieces] == [min(chunk, 31 - s) for s in range(0, 31, chunk)]
    assert torch.equal(torch.cat(pieces, 1), whole)


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_a_train_depends_on_the_sample_s_number_and_not_on_its_batch(encoder: Encoder, x: Tensor) -> None:
    whole = encoder.encode(x, 40)
    assert torch.equal(encoder.encode(x[3:], 43), whole[3:])
    assert torch.equal(encoder.encode(x[[4, 0]], [44, 40]), whole[[4, 0]])
    assert torch.equal(encoder.encode(x[[4, 0]], torch.tensor([44, 40])), whole[[4, 0]])


@pytest.mark.parametrize("name", ["rate", "poisson", "nalsm", "saccade"])
def test_another_sample_number_or_seed_draws_another_train(name: str, x: Tensor) -> None:
    encoder: Any = ENCODERS[name]
    whole = encoder.encode(x, 0)
    assert not torch.equal(encoder.encode(x, 5), whole)
    assert not torch.equal(type(encoder)(**(vars(encoder) | {"seed": 9})).encode(x, 0), whole)


@pytest.mark.parametrize(
    "encoder", [*ENCODERS.values(), CochleaEncoder(channels=9), EventFrames(crop=(16, 16))], ids=str
)
def test_an_encoder_survives_a_round_trip_through_json(encoder: Any) -> None:
    assert encoder_from_spec(json.loads(json.dumps(encoder.spec()))) == encoder


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (torch.tensor([[0.5, math.nan]]), "NaN or infinite values, the first in row 0"),
        (torch.tensor([[0.5, 0.1], [math.inf, 0.0]]), "the first in row 1"),
        (torch.tensor([[0.5, -0.25]]), "got values from -0.25 to 0.5, needed 0"),
        (torch.tensor([[0.5, 1.25]]), "got values from 0.5 to 1.25, needed 0 to 1"),
        (torch.zeros(2, 30, dtype=torch.uint8), "uint8 .*split.inputs"),
        (torch.zeros(30), "needed floats .batch, channels."),
        (torch.zeros(2, 0), "at least one sample and one channel"),
    ],
)
def test_inputs_that_are_no_values_from_0_to_1_are_refused(values: Tensor, words: str) -> None:
    with pytest.raises(DataError, match=words):
        RateEncoder(steps=3).encode(values)
    with pytest.raises(DataError, match=words):
        LatencyEncoder(steps=3).encode(values)


@pytest.mark.parametrize("samples", [[1], [1, 2, 3], -1])
def test_sample_numbers_that_do_not_match_the_batch_are_refused(samples: Any) -> None:
    with pytest.raises(DataError, match="samples: got .* for a batch of 2, needed one a sample"):
        RateEncoder(steps=3).encode(torch.rand(2, 4, generator=torch.Generator().manual_seed(0)), samples)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RateEncoder(steps=0), "RateEncoder.steps: got 0"),
        (lambda: RateEncoder(dt_seconds=0.0), "RateEncoder.dt_seconds"),
        (lambda: RateEncoder(peak_rate_hz=1500.0), 'probability of 1.5, needed at most 1; .*law="poisson"'),
        (lambda: RateEncoder(law="gauss"), "RateEncoder.law: got 'gauss'"),
        (lambda: LatencyEncoder(law="logarithmic"), "write threshold=0.1"),
        (lambda: SaccadeEncoder(amplitude=9.0), "needed 28 of the image and 10 for a path of 9 pixels"),
        (lambda: CochleaEncoder(high_hz=4000.0), "half the sampling rate"),
        (lambda: CochleaEncoder(dt_seconds=0.0003), "2.4 samples at 8000 Hz, needed a whole number"),
        (lambda: CochleaEncoder(exponent=1.5), "CochleaEncoder.exponent"),
        (lambda: EventFrames(crop=(40, 4)), "EventFrames.crop: got .40, 4."),
        (lambda: EventFrames(polarity="up"), "EventFrames.polarity"),
        (lambda: RateEncoder().chunks(torch.rand(1, 1), chunk_steps=0), "chunk_steps: got 0"),
    ],
)
def test_settings_that_cannot_work_are_named(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


# ---- rates, currents, latencies ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("law", "peak"), [("bernoulli", 400.0), ("poisson", 400.0), ("poisson", 3000.0)])
def test_rates_are_those_of_the_law_within_four_standard_errors(law: str, peak: float) -> None:
    values = torch.tensor([[0.0, 0.1, 0.5, 1.0]])
    steps = 40_000
    spikes = RateEncoder(steps=steps, law=law, peak_rate_hz=peak, dt_seconds=1e-3).encode(values)[0]
    expected = values[0] * peak * 1e-3
    p = expected if law == "bernoulli" else 1 - torch.exp(-expected)
    error = (spikes.float().mean(0) - p).abs()
    assert (error <= 4 * (p * (1 - p) / steps).sqrt()).all(), error
    assert not spikes[:, 0].any()


def test_channels_and_steps_are_independent_of_one_another() -> None:
    spikes = RateEncoder(steps=20_000).encode(torch.full((1, 3), 0.5))[0].double()
    series = torch.cat((spikes[1:], spikes[:-1]), 1).T  # each channel now and one step before
    correlation = torch.corrcoef(series) - torch.eye(6)
    assert correlation.abs().max() < 4 / math.sqrt(20_000)


def test_nalsm_rates_are_shares_over_the_largest_share_of_the_given_images() -> None:
    train = torch.tensor([[1.0, 1.0, 2.0], [3.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    encoder = RateEncoder.nalsm(train)
    assert encoder.full_scale == 0.75 and encoder.steps == 250
    p = encoder.probabilities(train)
    assert torch.allclose(p, torch.tensor([[1 / 3, 1 / 3, 2 / 3], [1.0, 0.0, 1 / 3], [0.0, 0.0, 0.0]]))
    # a test image above the training images' largest share: probability 1, and no statistic of its own split
    test = torch.tensor([[0.5, 0.0, 0.0]])
    assert encoder.probabilities(test).tolist() == [[1.0, 0.0, 0.0]]
    assert RateEncoder.nalsm(test).full_scale == 1.0
    with pytest.raises(DataError, match="3 images of zeros"):
        RateEncoder.nalsm(torch.zeros(3, 4))


def test_currents_are_constant_and_take_no_memory() -> None:
    train = CurrentEncoder(steps=1000, gain=3.0, offset=1.0).encode(torch.tensor([[0.0, 2.0]]))
    assert (train == torch.tensor([1.0, 7.0])).all() and train.stride(1) == 0


def test_linear_latencies_run_from_the_first_step_to_the_last() -> None:
    encoder = LatencyEncoder(steps=11, threshold=0.5)
    values = torch.tensor([[1.0, 0.75, 0.51, 0.5, 0.0]])
    assert encoder.spike_steps(values).tolist() == [[0, 5, 10, 11, 11]]
    assert encoder.encode(values).sum(1).tolist() == [[1, 1, 1, 0, 0]]


def test_logarithmic_latencies_are_first_passages_of_a_leaky_integrator() -> None:
    dt, tau, threshold = 1e-4, 0.02, 0.3
    values = torch.tensor([[1.0, 0.6, 0.35, 0.31]])
    encoder = LatencyEncoder(steps=600, dt_seconds=dt, law="logarithmic", threshold=threshold, tau_seconds=tau)
    time = torch.arange(1, 601, dtype=torch.float64)[:, None] * dt  # of the end of each step
    voltage = values.double() * (1 - torch.exp(-time / tau))
    assert encoder.spike_steps(values).tolist() == [(voltage < threshold).sum(0).tolist()]


# ---- saccades ------------------------------------------------------------------------------------------------------


def test_saccades_trace_a_closed_triangle_that_stays_on_the_sensor() -> None:
    encoder = SaccadeEncoder()
    path = encoder.path()
    assert np.allclose(path[0], path[-1]) and path.shape == (301, 2)
    assert np.allclose(path[100] - path[0], (4.0, 2.0)) and np.allclose(path[200] - path[0], (0.0, 4.0))
    assert path.min() >= 0 and path.max() + 28 + 1 <= 34


def test_an_edge_that_moves_right_gives_on_events_before_it_and_off_events_behind_it() -> None:
    quiet = SaccadeEncoder(
        steps=60, image=(8, 4), sensor=(14, 12), saccades=1, amplitude=4.0, contrast_std=0.0, noise_rate_hz=0.0
    )
    events = quiet.encode(torch.ones(1, 32)).reshape(60, 2, 14, 12)
    start, stop = quiet.path()[[0, -1]]
    assert stop[1] > start[1]
    off, on = events.sum(0)
    middle = slice(int(stop[0]) + 1, int(start[0]) + 7)  # rows that the bar covers all the time
    assert on[middle, int(stop[1]) + 3].all() and not off[middle, int(stop[1]) + 3].any()
    assert off[middle, int(start[1])].all() and not on[middle, int(start[1])].any()
    # the brightness that a pixel gains is the number of its ON events times the contrast, to one event
    gained = math.log(1.1 / 0.1) / quiet.contrast
    assert on[middle, int(stop[1]) + 3].tolist() == [math.floor(gained)] * on[middle].shape[0]


def test_a_uniform_sensor_and_no_noise_give_no_event() -> None:
    quiet = SaccadeEncoder(steps=20, noise_rate_hz=0.0)
    assert not quiet.encode(torch.zeros(2, 784)).any()
    noisy = SaccadeEncoder(steps=300, noise_rate_hz=10.0).encode(torch.zeros(2, 784))
    expected = 2 * 300 * 2312 * 0.01
    assert abs(int(noisy.sum()) - expected) < 4 * math.sqrt(expected)


# ---- event files ---------------------------------------------------------------------------------------------------


def packed(events: list[tuple[int, int, int, int]]) -> bytes:
    """(x, y, polarity, microseconds) as bytes, one event after another, by the description of the format."""
    return b"".join(bytes((x, y)) + (p << 23 | t).to_bytes(3, "big") for x, y, p, t in events)


def test_events_are_read_as_the_format_says(tmp_path: Path) -> None:
    listed = [(3, 4, 1, 0), (33, 0, 0, 1234), (0, 33, 1, 1234), (7, 7, 0, (1 << 23) - 1)]
    (tmp_path / "a.bin").write_bytes(packed(listed))
    events = read_events(tmp_path / "a.bin")
    rows = zip(events.x, events.y, events.polarity, events.microseconds, strict=True)
    assert [tuple(int(v) for v in row) for row in rows] == listed


def test_an_overflow_mark_is_no_event_and_shifts_all_later_times(tmp_path: Path) -> None:
    marks = [(1, 1, 1, 8000), (0, 240, 0, 0), (2, 2, 1, 5), (0, 240, 0, 0), (3, 3, 0, 7)]
    (tmp_path / "a.bin").write_bytes(packed(marks))
    events = read_events(tmp_path / "a.bin")
    assert events.x.tolist() == [1, 2, 3] and events.microseconds.tolist() == [8000, 5 + 8192, 7 + 2 * 8192]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file .0 bytes."),
        (packed([(1, 1, 1, 5), (2, 2, 0, 9)])[:-2], "got 8 bytes, of which the last 3 from byte 5 on"),
        (packed([(1, 1, 1, 5), (34, 2, 0, 9)]), "x = 34, y = 2 in event 1 at byte 5, needed x from 0 to 33"),
        (packed([(1, 34, 1, 5)]), "x = 1, y = 34 in event 0 at byte 0"),
        (packed([(0, 240, 0, 0), (1, 1, 1, 5), (9, 241, 1, 5)]), "y = 241 in event 2 at byte 10"),
        (packed([(1, 1, 1, 5), (0, 240, 0, 0)])[5:], "1 marks of a timer overflow and no event"),
        (packed([(1, 1, 1, 5), (2, 2, 0, 90), (2, 2, 0, 89)]), "a time of 89 us in event 2 at byte 10, after 90 us"),
    ],
    ids=["empty", "cut", "column", "row", "row-after-a-mark", "marks-only", "backwards"],
)
def test_a_damaged_event_file_is_named_with_the_byte_and_the_number(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "00012.bin").write_bytes(content)
    with pytest.raises(DataError, match=f"00012.bin: .*{words}"):
        read_events(tmp_path / "00012.bin")


def test_a_missing_event_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere.bin: cannot be read .No such file"):
        read_events(tmp_path / "nowhere.bin")


def events_of(rows: list[tuple[int, int, int, int]]) -> Events:
    return Events(*(np.array(column) for column in zip(*rows, strict=True)))


def test_frames_hold_an_event_where_and_when_it_was() -> None:
    events = events_of([(3, 4, 1, 400), (3, 4, 1, 410), (5, 6, 0, 1501), (0, 0, 1, 9600)])
    frames = EventFrames(steps=10).frames(events)
    on = {(int(t), *np.unravel_index(c, (2, 34, 34))) for t, c in zip(*frames.nonzero(), strict=True)}
    assert on == {(0, 1, 4, 3), (2, 0, 6, 5)}  # the last one is rounded to step 10, after the end
    floored = EventFrames(steps=10, rounding="floor").frames(events)
    assert np.flatnonzero(floored.any(1)).tolist() == [0, 1, 9]


def test_a_crop_keeps_the_centre_and_a_polarity_its_events() -> None:
    events = events_of([(9, 9, 1, 0), (24, 24, 1, 0), (8, 9, 1, 0), (25, 24, 1, 0), (12, 13, 0, 0)])
    cropped = EventFrames(steps=1, crop=(16, 16), polarity="on")
    frame = cropped.frames(events).reshape(16, 16)
    assert cropped.channels == 256 and list(zip(*frame.nonzero(), strict=True)) == [(0, 0), (15, 15)]
    off = EventFrames(steps=1, polarity="off").frames(events).reshape(34, 34)
    assert list(zip(*off.nonzero(), strict=True)) == [(13, 12)]


# ---- N-MNIST -------------------------------------------------------------------------------------------------------


@pytest.fixture
def nmnist(tmp_path: Path) -> Path:
    """Forty training and ten test recordings; recording n has its one event in column n % 34 and label n % 10."""
    for part, count in (("Train", 40), ("Test", 10)):
        for n in range(1, count + 1):
            folder = tmp_path / "NMNIST" / part / str(n % 10)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{n:05d}.bin").write_bytes(packed([(n % 34, 2, 1, 3000)]))
    return tmp_path


def test_n_mnist_is_in_the_order_of_mnist_with_labels_from_its_folders(nmnist: Path) -> None:
    splits = load_nmnist(nmnist, validation=10, frames=EventFrames(steps=5))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (30, 10, 10)
    assert torch.bincount(splits.validation.labels).tolist() == [1] * 10
    frames, labels = next(splits.test.batches(10))
    assert labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    at = frames.nonzero()
    assert at[:, 1].tolist() == [3] * 10
    assert (at[:, 2] - 34 * 34 - 2 * 34).tolist() == list(range(1, 11))


def test_batches_cover_a_split_once_in_the_order_of_the_generator(nmnist: Path) -> None:
    train = load_nmnist(nmnist, validation=0, frames=EventFrames(steps=5)).train
    labels = torch.cat([y for _, y in train.batches(7, generator=torch.Generator().manual_seed(1))])
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert torch.equal(labels, train.labels[order])
    half = train.subset(20, torch.Generator().manual_seed(2))
    assert len(half) == 20 and half.subset(5, torch.Generator().manual_seed(0)).inputs().shape == (5, 5, 2312)
    assert torch.equal(torch.cat(list(half.chunks(chunk_steps=2)), 1), half.inputs())


def test_a_file_is_read_when_it_is_wanted_and_not_before(nmnist: Path) -> None:
    (nmnist / "NMNIST" / "Test" / "3" / "00003.bin").write_bytes(b"\0\0\0")
    test = load_nmnist(nmnist).test
    assert test.inputs(slice(0, 2)).any()
    with pytest.raises(DataError, match="00003.bin: got 3 bytes"):
        test.inputs(slice(2, 3))


def test_labels_that_do_not_match_are_refused(nmnist: Path) -> None:
    expected = torch.arange(1, 41) % 10, torch.arange(1, 11) % 10
    assert len(load_nmnist(nmnist, expected=expected).test) == 10
    wrong = expected[0].clone()
    wrong[11] = 7
    with pytest.raises(DataError, match="00012.bin: got the label 2 from the folder, needed 7, the label of image 12"):
        load_nmnist(nmnist, expected=(wrong, expected[1]))
    with pytest.raises(DataError, match="got recording 10, needed 1 to 9"):
        load_nmnist(nmnist, expected=(expected[0], expected[1][:9]))
    part = load_nmnist(nmnist).test
    with pytest.raises(DataError, match=r"labels: got shape \[9\], needed \[10\]"):
        EventSplit(part.source, part.labels[:9])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Train/4/00003.bin", "recording 3 under the labels 3 and 4"),
        ("Train/11/00099.bin", "a folder for the label '11', needed 0 to 9"),
        ("Test/5/first.bin", "first.bin: got a file without a number"),
    ],
)
def test_files_under_wrong_names_are_refused(nmnist: Path, name: str, words: str) -> None:
    path = nmnist / "NMNIST" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(packed([(1, 1, 1, 1)]))
    with pytest.raises(DataError, match=words):
        load_nmnist(nmnist)


def test_folders_without_n_mnist_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EQPROP_DATA", raising=False)
    with pytest.raises(DataError, match="write folder=DIR or set EQPROP_DATA"):
        load_nmnist()
    with pytest.raises(DataError, match="got no Train and Test in .*data argument"):
        load_nmnist(tmp_path)
    for part in ("Train", "Test"):
        (tmp_path / part).mkdir()
    with pytest.raises(DataError, match="Train: got no recording"):
        load_nmnist(tmp_path)
    with pytest.raises(ConfigError, match="validation: got 40, needed 0 to 39"):
        fill = tmp_path / "Train" / "1"
        fill.mkdir()
        for n in range(40):
            (fill / f"{n}.bin").touch()
        (tmp_path / "Test" / "1").mkdir()
        (tmp_path / "Test" / "1" / "1.bin").touch()
        load_nmnist(tmp_path, validation=40)


def test_a_tonic_data_set_gives_the_same_frames() -> None:
    kind = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])
    recording = np.array([(3, 4, 2000, 1), (5, 6, 1000, 0)], dtype=kind)
    dataset: Any = [(recording, 7), (recording[:1], 1)]
    source = TonicEvents(dataset)
    split = EventSplit(source, source.labels(), EventFrames(steps=4))
    assert split.labels.tolist() == [7, 1]
    expected = EventFrames(steps=4).frames(events_of([(5, 6, 0, 1000), (3, 4, 1, 2000)]))
    assert np.array_equal(split.inputs()[0].numpy(), expected)
    bare = TonicEvents([(np.zeros((4, 2)), 0)])
    with pytest.raises(DataError, match="sample 0 of list: .* needed x, y, p and t"):
        bare[0]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ((34, 4, 2000, 1), "x = 34, y = 4 in event 1, needed x from 0 to 33 .* sensor="),
        ((3, -1, 2000, 1), "x = 3, y = -1 in event 1, needed .* y from 0 to 33"),
        ((3, 4, 2000, -1), "a polarity of -1 in event 1, needed 1 .ON. or 0"),
        ((3, 4, -2000, 1), "a time of -2000 us in event 1"),
    ],
)
def test_events_off_the_sensor_of_a_tonic_data_set_are_named(event: tuple[int, ...], text: str) -> None:
    kind = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])

    class NMNIST(list[Any]):
        sensor_size = (34, 34, 2)

    source = TonicEvents(NMNIST([(np.array([(5, 6, 1000, 0), event], dtype=kind), 7)]))
    with pytest.raises(DataError, match=f"sample 0 of NMNIST: got {text}"):
        EventSplit(source, source.labels()).inputs()


def test_frames_have_the_sensor_of_their_recordings() -> None:
    class Wide(list[Any]):
        sensor_size = (128, 96, 2)

    kind = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])
    source = TonicEvents(Wide([(np.array([(127, 95, 0, 1)], dtype=kind), 0)]))
    assert source.sensor == (96, 128) and TonicEvents([], sensor=(5, 6)).sensor == (5, 6)
    with pytest.raises(ConfigError, match=r"sensor of \(34, 34\) for recordings of \(96, 128\).*sensor=\(96, 128\)"):
        EventSplit(source, torch.tensor([0]))
    frames = EventFrames(steps=1, sensor=(96, 128))
    assert int(EventSplit(source, torch.tensor([0]), frames).inputs().sum()) == 1


# ---- sounds --------------------------------------------------------------------------------------------------------


def tone(hz: float, seconds: float = 0.3) -> np.ndarray:
    return (8000 * np.sin(2 * np.pi * hz * np.arange(int(8000 * seconds)) / 8000)).astype(np.int16)


def test_centres_are_equally_spaced_in_erb_rate() -> None:
    centres = CochleaEncoder(channels=20).centres_hz()
    assert np.allclose(centres[[0, -1]], (100.0, 3600.0))
    assert np.ptp(np.diff(21.4 * np.log10(1 + 0.00437 * centres))) < 1e-9


@pytest.mark.parametrize("spikes", ["lif", "bsa"])
@pytest.mark.parametrize("channel", [8, 20, 33])
def test_a_tone_excites_the_filter_at_its_frequency_most(spikes: str, channel: int) -> None:
    encoder = CochleaEncoder(steps=300, spikes=spikes, exponent=1.0, gain=0.5, bsa_threshold=0.3)
    envelope = encoder.envelopes([tone(encoder.centres_hz()[channel])])
    assert envelope.shape == (1, 300, 40) and int(envelope.mean(1).argmax()) == channel
    counts = encoder.spiking(envelope).sum(1)[0]
    assert counts[channel] == counts.max() > 0


def test_loudness_does_not_matter_and_silence_follows_a_short_recording() -> None:
    encoder = CochleaEncoder(steps=300)
    loud, soft = encoder.envelopes([tone(500.0, 0.1), tone(500.0, 0.1) * 0.01])
    assert torch.allclose(loud, soft, atol=1e-4)
    assert loud[20:90].mean() > 20 * loud[250:].mean()
    assert torch.equal(encoder.encode([tone(500.0, 0.1)])[0], encoder.encode([tone(700.0), tone(500.0, 0.1)])[1])


def test_what_is_longer_than_the_steps_is_cut() -> None:
    encoder = CochleaEncoder(steps=100)
    long, short = (tone(500.0, s).astype(float) for s in (0.1, 0.1))
    joined = np.concatenate((long, -long))  # of the same loudness: the start sounds the same
    heard = encoder.envelopes([joined, short])
    assert torch.allclose(heard[0], heard[1], atol=1e-6)


def test_lif_channels_spike_at_the_rate_of_a_leaky_integrator() -> None:
    encoder = CochleaEncoder(steps=2000, tau_seconds=0.02, gain=0.1)
    drive = torch.tensor([0.3, 0.6, 2.0])
    spikes = encoder.spiking(drive.expand(1, 2000, 3).contiguous())
    keep = math.exp(-1 / 20)
    for current, count in zip((0.1 * drive).tolist(), spikes.sum(1)[0].tolist(), strict=True):
        # v_n = current (1 - keep^n) / (1 - keep) reaches 1 after n steps, if ever
        last = current / (1 - keep)
        n = math.ceil(math.log(1 - 1 / last) / math.log(keep)) if last > 1 else math.inf
        assert count == 2000 // n


def test_bsa_spikes_filtered_again_follow_the_signal() -> None:
    encoder = CochleaEncoder(steps=600, spikes="bsa", gain=0.5, tau_seconds=0.02, bsa_threshold=0.95)
    signal = 0.5 + 0.3 * torch.sin(torch.arange(600) * 2 * math.pi / 300)[None, :, None]
    spikes = encoder.spiking(signal.float().contiguous())[0, :, 0].double()
    taps = torch.exp(-torch.arange(80, dtype=torch.float64) / 20)
    rebuilt = np.convolve(spikes.numpy(), (taps / taps.sum() / 0.5).numpy())[100:500]
    assert np.corrcoef(rebuilt, signal[0, 100:500, 0].numpy())[0, 1] > 0.9
    assert abs(rebuilt.mean() / float(signal[0, 100:500].mean()) - 1) < 0.2


@pytest.mark.parametrize(
    ("recording", "words"),
    [
        (np.zeros(100, np.int16), "recording 1: got 100 samples of zero"),
        (np.zeros(0), "recording 1: got shape .0."),
        (np.ones((3, 2)), "recording 1: got shape .3, 2."),
        (np.array([1.0, np.nan]), "recording 1: got NaN"),
    ],
)
def test_recordings_that_are_no_sound_are_named_by_number(recording: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        CochleaEncoder(steps=10).encode([tone(500.0), recording])


def spoken(**changes: Any) -> dict[str, Any]:
    """Forty recordings of growing length; recording i has samples i, label i % 10 and index i // 4."""
    lengths = np.arange(5, 45)
    arrays = {
        "audio": np.repeat(np.arange(40), lengths).astype(np.int16),
        "ptr": np.concatenate(([0], np.cumsum(lengths))),
        "label": (np.arange(40) % 10).astype(np.uint8),
        "speaker": (np.arange(40) % 4).astype(np.uint8),
        "index": (np.arange(40) // 4).astype(np.uint8),
        "rate": np.array(8000),
    }
    return arrays | changes


def test_spoken_digits_come_with_the_official_test_part(tmp_path: Path) -> None:
    np.savez(tmp_path / "fsdd.npz", **spoken())
    splits = load_spoken_digits(tmp_path, validation=5)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (15, 5, 20)
    assert splits.test.labels.tolist() == [i % 10 for i in range(20)]
    assert [r[0] for r in splits.test.recordings()] == list(range(20))
    assert [len(r) for r in splits.test.recordings(torch.tensor([3, 0]))] == [8, 5]
    batches = list(splits.train.batches(4, generator=torch.Generator().manual_seed(0)))
    assert sorted(r[0] for rs, _ in batches for r in rs) == sorted(r[0] for r in splits.train.recordings())
    assert all(r[0] % 10 == y for rs, ys in batches for r, y in zip(rs, ys.tolist(), strict=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label": np.zeros(39, np.uint8)}, "got 39 values in label, needed 40"),
        ({"label": np.arange(40)}, "got label 10 for recording 10, needed 0 to 9"),
        ({"audio": np.zeros(7, np.int16)}, "got ptr from 0 to 980, needed 0 to 7"),
        ({"audio": np.zeros(980)}, "got audio of float64"),
        ({"ptr": np.array([0, 3, 3, 980])}, "got recording 1 from sample 3 to 3"),
        ({"rate": np.array(0)}, "got a rate of 0 Hz"),
    ],
)
def test_a_file_of_spoken_digits_that_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "fsdd.npz", **spoken(**changes))
    with pytest.raises(DataError, match=f"fsdd.npz: {words}"):
        load_spoken_digits(tmp_path)


def test_a_missing_or_damaged_file_of_spoken_digits_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got no fsdd.npz in"):
        load_spoken_digits(tmp_path)
    (tmp_path / "fsdd.npz").write_bytes(b"PK\3\4 cut short")
    with pytest.raises(DataError, match="fsdd.npz: got a truncated or damaged npz file"):
        load_spoken_digits(tmp_path)
    np.savez(tmp_path / "fsdd.npz", audio=np.zeros(3))
    with pytest.raises(DataError, match="got no ptr, label, speaker, index, rate"):
        load_spoken_digits(tmp_path)
    np.savez(tmp_path / "fsdd.npz", **spoken())
    with pytest.raises(ConfigError, match="validation: got 20, needed 0 to 19"):
        load_spoken_digits(tmp_path, validation=20)
