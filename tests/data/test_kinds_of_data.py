"""Tables, sequences, values, torch Datasets and saved folders: what networks and likelihoods get of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from bmrs_pyro.data import Batches, DataError, load, read_saved_dataset, split_items
from bmrs_pyro.data.tables import read_table

RNG = np.random.default_rng(0)


def table(path: Path) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "age": RNG.integers(18, 90, 60),
            "city": RNG.choice(["Oslo", "Bergen", "Molde"], 60),
            "income": RNG.normal(3e4, 5e3, 60),
            "kind": RNG.choice(["no", "yes"], 60),
        }
    )
    frame.to_csv(path, index=False)
    return frame


def test_a_table_has_standardised_numbers_and_numbered_categories(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    frame = table(path)
    splits = load(path, target="kind")
    assert splits.train.columns == {
        "age": (),
        "city": ("Bergen", "Molde", "Oslo"),
        "income": (),
        "kind": ("no", "yes"),
    }
    assert splits.train.num_classes == 2
    x = torch.cat([x for x, _ in Batches(splits.train, 7, shuffle=False)])
    torch.testing.assert_close(x[:, [0, 2]].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(x[:, [0, 2]].std(0, correction=0), torch.ones(2), atol=1e-5, rtol=0)
    found = sorted(zip(x[:, 1].tolist(), splits.train.labels.tolist(), strict=True))
    ages = splits.train.images[:, 0].tolist()
    rows = [frame.index[(frame.age == age) & (frame.income.astype("float32") == np.float32(income))][0]
            for age, income in zip(ages, splits.train.images[:, 2].tolist(), strict=True)]  # fmt: skip
    own = frame.loc[rows]
    wanted = sorted(zip(own.city.map({"Bergen": 0, "Molde": 1, "Oslo": 2}), own.kind == "yes", strict=True))
    assert found == [(float(city), int(kind)) for city, kind in wanted]


def test_a_parquet_file_is_read_as_its_csv_file(tmp_path: Path) -> None:
    table(tmp_path / "people.csv").to_parquet(tmp_path / "people.parquet")
    one, other = (
        load(tmp_path / f"people.{end}", target="income", values=True) for end in ("csv", "parquet")
    )
    assert one.train.num_classes == 1
    torch.testing.assert_close(one.train.labels, other.train.labels)
    torch.testing.assert_close(one.test.images, other.test.images)


def test_whole_numbers_are_classes_in_their_own_order(tmp_path: Path) -> None:
    path = tmp_path / "dice.csv"
    pd.DataFrame({"x": range(40), "y": [2, 10, 7, 10] * 10}).to_csv(path, index=False)
    assert load(path, target="y").train.class_names == ("2", "7", "10")


@pytest.mark.parametrize(
    ("target", "values", "message"),
    [
        (None, False, "no target is named; give --target, one of age, city, income, kind"),
        ("wage", False, "there is no column 'wage'"),
        (
            "income",
            False,
            "'income' holds real numbers, not classes; choose a likelihood, such as --likelihood normal",
        ),
        ("kind", True, "'kind' holds texts, such as '(yes|no)'"),
    ],
)
def test_a_target_that_does_not_fit(target: str | None, values: bool, message: str, tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    table(path)
    with pytest.raises(DataError, match=message):
        load(path, target=target, values=values)


def test_empty_cells_and_damaged_files_are_refused(tmp_path: Path) -> None:
    holes = tmp_path / "holes.csv"
    holes.write_text("a,b\n1,2\n,3\n4,5\n")
    with pytest.raises(DataError, match="column 'a' has 1 empty cells"):
        load(holes, target="b")
    for name, content in (
        ("empty.csv", ""),
        ("ragged.csv", "a,b\n1,2,3\n1\n1,2,3,4\n"),
        ("semicolons.csv", "a;b\n1;2,5\n1,5;2,5\n"),
        ("x.parquet", "PAR1"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match="cannot be read") as caught:
            load(tmp_path / name, target="b")
        assert ("separate the columns by commas" in str(caught.value)) == (
            name in ("ragged.csv", "semicolons.csv")
        )
    with pytest.raises(DataError, match="a target is a column"):
        load("digits", target="b")
    with pytest.raises(DataError, match="digits holds classes"):
        load("digits", values=True)


def arrays(path: Path, **of: Any) -> Path:
    np.savez(path, **{f"{key}_{part}": value for key, value in of.items() for part in ("train", "test")})
    return path


def test_arrays_of_values_tokens_and_sequences(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    values = load(arrays(file, x=RNG.normal(size=(20, 3)), y=RNG.normal(size=(20, 2))), values=True)
    assert (values.train.num_classes, values.train.labels.dtype) == (2, torch.float32)
    counts = load(arrays(file, x=RNG.normal(size=(20, 3)), y=RNG.integers(0, 9, 20)), values=True)
    assert (counts.train.num_classes, counts.train.labels.dtype) == (1, torch.float32)

    tokens = RNG.integers(0, 11, (20, 6))
    tokens[0, 0] = 10
    text = load(arrays(file, tokens=tokens))
    assert text.train.num_classes == 11
    x, y = next(iter(Batches(text.train, 4)))
    assert x.dtype == torch.int64
    assert torch.equal(x, y)
    tags = load(arrays(file, tokens=tokens, y=np.where(tokens > 9, -100, tokens % 3)))
    assert tags.train.num_classes == 3

    series = load(arrays(file, sequences=RNG.normal(5, 2, (20, 7, 3)), y=np.arange(20) % 2))
    x = torch.cat([x for x, _ in Batches(series.train, 5)])
    assert x.shape[1:] == (7, 3)
    torch.testing.assert_close(x.mean((0, 1)), torch.zeros(3), atol=1e-5, rtol=0)

    maps = load(arrays(file, x=np.zeros((20, 8, 6, 3), np.uint8), y=RNG.integers(0, 2, (20, 8, 6))))
    assert maps.train.labels.shape[1:] == (8, 6)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ({"x": np.zeros((4, 2)), "y": np.zeros(4)}, "y_train holds float64; .* --likelihood normal"),
        ({"tokens": np.zeros((4, 2))}, r"tokens_train holds float64.* integers \(N, T\)"),
        ({"tokens": -np.ones((4, 2), int)}, "tokens are integers"),
        ({"sequences": np.zeros((4, 2)), "y": np.arange(4) % 2}, "sequences are real numbers"),
        ({"x": np.zeros((4, 5, 5, 3)), "y": np.zeros((4, 3), int)}, "or one per place"),
    ],
)
def test_arrays_that_do_not_fit(of: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load(arrays(tmp_path / "data.npz", **of))


def test_items_of_a_torch_dataset() -> None:
    whole = TensorDataset(torch.arange(50.0).view(25, 2), torch.arange(25) % 3)
    splits = split_items(whole, "mine", 0.2, seed=1)
    assert [len(part) for part in splits] == [16, 4, 5]
    assert (splits.train.num_classes, splits.train.input_shape) == (3, (2,))
    rows = [row for part in splits for x, _ in Batches(part, 4) for row in x[:, 0].tolist()]
    assert sorted(rows) == list(torch.arange(0.0, 50, 2))
    assert {len(y) for _, y in Batches(splits.test, 4, shuffle=False, share=(1, 2))} == {2, 1}
    again = split_items(whole, "mine", 0.2, seed=1)
    assert all(
        torch.equal(a[0], b[0])
        for a, b in zip(Batches(splits.train, 4), Batches(again.train, 4), strict=True)
    )


def test_dicts_loaders_and_what_they_say_of_themselves() -> None:
    rows = [{"input_ids": torch.arange(5) + i, "labels": i % 2} for i in range(8)]
    splits = split_items({"train": rows, "test": rows[:2], "validation": rows[2:4]}, "mine", 0.2, seed=0)
    assert splits.train.example.keys() == {"input_ids"}
    batch = next(iter(Batches(splits.test, 2, shuffle=False)))
    assert batch["labels"].tolist() == [0, 1]
    loaders = [DataLoader(TensorDataset(torch.randn(6, 3), torch.randn(6, 2)), 4) for _ in range(3)]
    part = split_items(loaders, "mine", 0.2, seed=0).train
    assert (len(part), part.num_classes, part.input_shape) == (6, 2, (3,))

    class Named(TensorDataset):
        classes = ("a", "b", "c", "d")

    named = Named(torch.randn(10, 3), torch.zeros(10).long())
    assert split_items(named, "mine", 0.2, seed=0).validation.num_classes == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (7, "mine gave a int"),
        ({"training": []}, r"mine gave \['training'\]"),
        (DataLoader(TensorDataset(torch.zeros(4, 1))), "expected a torch Dataset"),
        ([DataLoader(TensorDataset(torch.zeros(4, 1)))] * 2, "no part of a DataLoader can be held out"),
        ([(torch.zeros(1),)] * 9, "an item is a list; expected"),
        (TensorDataset(torch.zeros(1, 1), torch.zeros(1)), "0 of 1 examples would be held out"),
    ],
)
def test_what_code_gives_and_is_no_data(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_items(given, "mine", 0.2, seed=0)


def test_a_folder_of_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    tokens = RNG.integers(0, 30, (20, 5)).tolist()
    columns = {"text": ["a"] * 20, "input_ids": tokens, "label": [0, 1] * 10}
    both = {"train": datasets.Dataset.from_dict(columns), "unsupervised": datasets.Dataset.from_dict(columns)}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "texts")
    splits = split_items(read_saved_dataset(tmp_path / "texts", None), "texts", 0.2, seed=0)
    batch = next(iter(Batches(splits.train, 3)))
    assert batch.keys() == {"input_ids", "labels"}
    assert batch["input_ids"].shape == (3, 5)
    datasets.Dataset.from_dict({"input_ids": tokens}).save_to_disk(tmp_path / "plain")
    plain = split_items(read_saved_dataset(tmp_path / "plain", None, next_token=True), "plain", 0.2, seed=0)
    assert plain.train.num_classes == max(map(max, tokens)) + 1
    with pytest.raises(DataError, match="no column 'labels'"):
        read_saved_dataset(tmp_path / "plain", None)


def test_names_in_upper_case_and_header_spaces(tmp_path: Path) -> None:
    path = tmp_path / "PEOPLE.CSV"
    table(path)
    assert load(path, target="kind").train.num_classes == 2
    (tmp_path / "spaces.csv").write_text("a, b\n1, 2\n")
    with pytest.raises(DataError, match="no column 'b'; give --target, one of a, ' b'"):
        load(tmp_path / "spaces.csv", target="b")
    (tmp_path / "header.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="has 2 columns but no rows; add a row for every example"):
        load(tmp_path / "header.csv", target="b")
    (tmp_path / "lone.csv").write_text("b\n1\n2\n")
    with pytest.raises(DataError, match="has no column but 'b'; add a column for every feature"):
        load(tmp_path / "lone.csv", target="b")
    arrays(tmp_path / "data.npz", x=np.zeros((20, 2)), y=np.arange(20) % 2 > 0).rename(tmp_path / "DATA.NPZ")
    assert load(tmp_path / "DATA.NPZ").train.num_classes == 2  # labels may be booleans


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([1e300, *range(29)], "column 'x' holds 1e.300, which is infinite or too large for float32"),
        ([1.0, np.inf, *range(28)], "column 'x' holds inf, which is infinite"),
        ([[1, 2]] * 30, "column 'x' holds lists"),
    ],
)
def test_cells_that_are_no_numbers_name_their_column(column: list[Any], message: str, tmp_path: Path) -> None:
    pd.DataFrame({"x": column, "y": [0, 1] * 15}).to_parquet(tmp_path / "cells.parquet")
    with pytest.raises(DataError, match=message):
        load(tmp_path / "cells.parquet", target="y")


def test_columns_that_tell_the_rows_apart_give_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "days.csv"
    days = pd.date_range("2026-01-01", periods=50)
    pd.DataFrame({"day": days, "x": range(50), "y": range(50)}).to_csv(path, index=False)
    with pytest.warns(UserWarning, match="'day' has 50 different texts in 50 rows.* decimal point"):
        load(path, target="y", values=True)
    with (
        pytest.warns(UserWarning, match="'y' has 50 different integers in 50 rows.*--likelihood poisson"),
        pytest.warns(UserWarning, match="'day'"),
    ):
        read_table(path, "y")


def test_values_of_places_need_one_output_for_each(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    for key, x, y, outputs in (
        ("sequences", (20, 7, 3), (20, 7, 2), 2),
        ("sequences", (20, 7, 3), (20, 7), 7),
        ("x", (20, 8, 6, 3), (20, 8, 6), 1),
        ("x", (20, 8, 6, 3), (20, 5, 8, 6), 5),
    ):
        given = arrays(file, **{key: RNG.normal(size=x), "y": RNG.normal(size=y)})
        assert load(given, values=True).train.num_classes == outputs


def test_labels_that_are_not_scored_and_files_that_are_no_archives(tmp_path: Path) -> None:
    tokens = RNG.integers(0, 11, (20, 6))
    with pytest.raises(DataError, match="no label is scored, all are -100"):
        load(arrays(tmp_path / "data.npz", tokens=tokens, y=np.full((20, 6), -100)))
    with pytest.raises(DataError, match="choose a likelihood, such as --likelihood bernoulli"):
        load(arrays(tmp_path / "data.npz", x=np.zeros((20, 2)), y=np.zeros((20, 3), int)))
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match=r"it is no \.npz file"):
        load(tmp_path / "text.npz")
    void = np.where(RNG.random((20, 8, 6)) > 0.5, 255, 1)
    with pytest.warns(UserWarning, match=r"y_train holds the label 255.*write -100"):
        load(arrays(tmp_path / "data.npz", x=np.zeros((20, 8, 6)), y=void))


@pytest.mark.parametrize(
    ("labels", "values", "outputs"),
    [
        (torch.arange(25) % 3, False, 3),
        (torch.arange(25) % 3, True, 1),  # counts, or 0 and 1
        ((torch.arange(75) % 2).view(25, 3), True, 3),  # several labels
        ((torch.arange(25) % 3).double(), False, 3),
        (torch.arange(25) % 2 > 0, False, 2),
        (torch.randn(25, 2), None, 2),
    ],
)
def test_the_likelihood_decides_how_many_outputs_labels_need(
    labels: torch.Tensor, values: bool | None, outputs: int
) -> None:
    whole = TensorDataset(torch.zeros(25, 2), labels)
    assert split_items(whole, "mine", 0.2, seed=1, values=values).train.num_classes == outputs


def test_items_that_do_not_fit_together() -> None:
    uneven = [(torch.zeros(3 + i % 2), i % 2) for i in range(20)]
    part = split_items(uneven, "mine", 0.2, seed=1).train
    with pytest.raises(DataError, match=r"mine: items cannot be joined to a batch .* such as by padding"):
        list(Batches(part, 4))
    with pytest.raises(DataError, match=r"labels such as 0\.5 are no classes.*--likelihood normal"):
        split_items(TensorDataset(torch.zeros(20, 2), torch.full((20,), 0.5)), "mine", 0.2, 1, values=False)
    gaps = TensorDataset(torch.zeros(20, 2), torch.full((20,), torch.nan))
    with pytest.raises(DataError, match="a value to predict is NaN"):
        list(split_items(gaps, "mine", 0.2, seed=1, values=True).train.labels())


def test_numbers_of_numpy_become_float32() -> None:
    whole = TensorDataset(torch.zeros(20, 2, dtype=torch.float64), torch.arange(20) % 2)
    x, y = next(iter(Batches(split_items(whole, "mine", 0.2, seed=1).train, 4)))
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


def test_a_folder_of_datasets_without_numbers_to_predict_or_training_part(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    texts = datasets.Dataset.from_dict({"input_ids": [[1, 2]] * 20, "label": ["a", "b"] * 10})
    texts.save_to_disk(tmp_path / "texts")
    with pytest.raises(DataError, match="column 'label' holds no numbers; number its classes"):
        read_saved_dataset(tmp_path / "texts", None)
    numbered = datasets.Dataset.from_dict({"input_ids": [[1, 2]] * 20, "label": [0, 1] * 10})
    datasets.DatasetDict(a=numbered).save_to_disk(tmp_path / "parts")
    with pytest.raises(DataError, match="has the parts a; expected train"):
        read_saved_dataset(tmp_path / "parts", None)


def test_other_separators_are_named(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a;b;label\n1;2;x\n3;4;y\n")
    with pytest.raises(DataError, match=r"single column, a;b;label; separate columns by commas, not by ';'"):
        read_table(path, "label")


def test_loaders_give_float32_too() -> None:
    items = TensorDataset(torch.randn(12, 3, dtype=torch.float64), torch.arange(12) % 2)
    given = [DataLoader(items, 4, shuffle=True) for _ in range(3)]
    parts = split_items(given, "mine", 0.2, 0)
    assert {x.dtype for x, _ in parts.train.source} == {torch.float32}
    assert parts.train.source.sampler is given[0].sampler
    assert {x.dtype for x, _ in given[0]} == {torch.float64}  # the user's own loader is not changed
