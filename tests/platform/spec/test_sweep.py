"""Sweep files: which values their trials have."""


def test_conditional_field_counts_only_with_the_values_it_names(alphas, sweep):
    text = alphas.replace(
        "variant.threshold: [0.6, 0.7]",
        "variant.weight_term: [both, none]\n"
        "  variant.threshold: {choice: [0.6, 0.7], when: {variant.weight_term: both}}",
    )
    values = list(sweep(text).sweep.values())
    assert len(values) == 3 * (2 + 1)
    assert all(("variant.threshold" in v) == (v["variant.weight_term"] == "both") for v in values)


def test_random_search_draws_the_same_trials_again(alphas, sweep):
    text = alphas.replace("[0, 0.5, 0.85]", "{uniform: [0, 1]}") + "search: random\nsamples: 5\n"
    once, again = (list(sweep(text).sweep.values()) for _ in range(2))
    assert once == again and len(once) == 5
    other = list(sweep(text + "search_seed: 1\n").sweep.values())
    assert other != once
