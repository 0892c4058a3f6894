"""Which row is the best, and whether seeds tell it from the others."""

from bacl_platform.report.result_table.best import best_first, best_sentences, find_best


def aps(*values):
    return {"AP": list(values)}


def test_row_is_clearly_best_whose_differences_to_all_others_leave_out_zero(row, table):
    rows = [
        row({"alpha": 0}, aps(30, 31, 32)),
        row({"alpha": 1}, aps(35, 36.1, 37)),
        row({"alpha": 2}, aps(33, 34, 35.1)),
    ]
    best = find_best(table(*rows))
    assert best.row is rows[1] and best.next is rows[2]
    assert best.clearly
    (said,) = best_sentences(table(*rows))
    assert said == (
        "Clearly best of 3 rows by AP (over 3 seeds, paired, with Holm's correction): alpha=1 "
        "(+2.0 [1.8, 2.2] to the next, alpha=2)."
    )


def test_seeds_are_paired(row, table):
    """Seeds differ by ten points, and rows by two in each of them."""
    rows = [row({"alpha": 0}, aps(20, 30.1, 40)), row({"alpha": 1}, aps(22, 32, 42))]
    assert find_best(table(*rows)).clearly


def test_row_that_one_other_equals_is_not_clearly_best(row, table):
    rows = [
        row({"alpha": 0}, aps(30, 31, 32)),
        row({"alpha": 1}, aps(35, 36, 37)),
        row({"alpha": 2}, aps(35.5, 35, 37.2)),
    ]
    best = find_best(table(*rows))
    assert not best.clearly and [r.label for r in best.level] == ["alpha=2"]
    (said,) = best_sentences(table(*rows))
    assert said.startswith("Best of 3 rows by AP, not clearly (over 3 seeds, paired, with Holm's")
    assert said.endswith("not told apart from it: alpha=2.")


def test_difference_that_is_clear_alone_need_not_be_among_many(row, table):
    """One difference of p 0.02 is clear between two rows; of ten such, none is."""
    best = row({"n": 0}, aps(30.0, 30.0, 30.0, 30.0))
    others = [row({"n": n}, aps(29.9, 29.0, 29.4, 29.2)) for n in range(1, 11)]
    assert find_best(table(best, others[0])).clearly
    assert len(find_best(table(best, *others)).level) == 10


def test_fewer_than_three_seeds_are_too_few(row, table):
    rows = [row({"alpha": 0}, aps(30, 30)), row({"alpha": 1}, aps(40, 40))]
    best = find_best(table(*rows))
    assert best.level is None and not best.clearly
    assert best_sentences(table(*rows)) == [
        "Best of 2 rows by AP: alpha=1 (+10.0 to the next, alpha=0); whether clearly cannot be "
        "told from 2 seeds: 3 or more are needed."
    ]
    rows = [row({"a": 0}, aps(30, 30, 30)), row({"a": 1}, aps(40, 40, 41)), row({"a": 2}, aps(9))]
    assert find_best(table(*rows)).level is None


def test_rows_without_a_result_are_not_counted_silently(row, table):
    rows = [
        row({"alpha": 0}, aps(30)),
        row({"alpha": 1}, aps(40)),
        row({"alpha": 2}, {}, "1 failed"),
    ]
    assert best_sentences(table(*rows))[0].startswith("Best of 2 rows with results by AP: alpha=1")


def test_lower_is_better_where_the_sweep_says_so(row, table):
    rows = [row({"gamma": g}, {"ECE": [5.0 + g, 5.1 + g, 5 + g]}) for g in (0, 1)]
    found = table(*rows, metric="ECE", mode="min")
    assert find_best(found).row is rows[0]
    assert "by ECE (lower is better)" in best_sentences(found)[0]
    assert best_first(found) == rows


def test_nothing_is_best_of_nothing_or_of_one(row, table):
    assert find_best(table()) is None
    assert find_best(table(row({"alpha": 0}, {}, "1 failed"))) is None
    assert best_sentences(table(row({"alpha": 0}, aps(1, 2, 3)))) == []


def test_replayed_and_exact_rows_are_not_compared(row, table):
    rows = [row({"alpha": 0}, aps(30)), row({"alpha": 1}, aps(40), features="replay")]
    assert find_best(table(*rows)) is None


def test_exact_results_of_a_screened_sweep_decide(row, table):
    rows = [
        row({"alpha": n}, aps(30 + n), features="replay", exact={"AP": {0: 40.0 - n}})
        for n in range(2)
    ]
    rows.append(row({"alpha": 9}, aps(50), features="replay"))
    best = find_best(table(*rows, screened=True))
    assert best.row is rows[0] and best.exact and best.rows == 2
    assert "of 2 exact rows" in best_sentences(table(*rows, screened=True))[0]


def test_rows_without_the_metric_come_last(row, table):
    rows = [row({"a": 0}, {}, "1 stopped"), row({"a": 1}, aps(1)), row({"a": 2}, aps(2))]
    assert [r.varied["a"] for r in best_first(table(*rows))] == ["2", "1", "0"]
