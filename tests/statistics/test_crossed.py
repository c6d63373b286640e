"""How the variance of averages divides between images and training runs."""

import warnings

import numpy as np
import pytest
from benchmarks.validity.seeds import balanced_reml
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from eyeswap.statistics.crossed import SeedVariance, arm_variances, pair_variances, pooled_variance
from eyeswap.statistics.differences import sample_differences
from eyeswap.statistics.equivalence import minimum_detectable
from eyeswap.statistics.resampling import Sample

PAIRS = [(0, 1), (0, 2), (1, 2)]


def made_up(generator, num_arms, num_seeds, num_images, run=0.05, luck=0.12):
    """Draw scores ``[k, S, m]`` of the crossed model."""
    shape = num_arms, num_seeds, num_images
    return (
        0.5
        + 0.15 * generator.standard_normal((1, 1, num_images))
        + 0.1 * generator.standard_normal((num_arms, 1, num_images))
        + run * generator.standard_normal((num_arms, num_seeds, 1))
        + luck * generator.standard_normal(shape)
    )


def parts(scores):
    sample = Sample([scores], [np.arange(scores.shape[-1])])
    return sample.values, sample.residuals()


@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_the_two_variances_estimate_that_of_the_difference_without_bias_before_their_floors(seed, num_seeds):
    scores = made_up(np.random.default_rng(seed), 3, num_seeds, 12)
    values, residuals = parts(scores)
    found = pair_variances(values, residuals, PAIRS)
    m = scores.shape[-1]
    for place, (i, j) in enumerate(PAIRS):
        difference = scores[i].mean(axis=0) - scores[j].mean(axis=0)
        cells = [scores[a] - scores[a].mean(0) - (scores[a].mean(1) - scores[a].mean())[:, None] for a in (i, j)]
        luck = [(cell**2).sum() / (num_seeds - 1) / (m - 1) / m for cell in cells]
        images = difference.var(ddof=1) / m - sum(luck) / num_seeds
        own = [scores[a].mean(axis=1).var(ddof=1) for a in (i, j)]
        pooled = values.var(axis=1, ddof=1).mean()
        assert found.images[place] == pytest.approx(max(images, 0.0), abs=1e-12)
        assert found.runs[place] == pytest.approx(2 / num_seeds * max(np.mean(own), pooled))
    assert found.run_freedom == 3 * (num_seeds - 1)


def test_a_study_of_many_is_computed_as_one_alone():
    generator = np.random.default_rng(2)
    values, residuals = zip(*(parts(made_up(generator, 3, 2, 20)) for _ in range(4)), strict=True)
    together = pair_variances(np.stack(values), np.stack(residuals), PAIRS)
    for study in range(4):
        alone = pair_variances(values[study], residuals[study], PAIRS)
        assert together.images[study] == pytest.approx(alone.images)
        assert together.runs[study] == pytest.approx(alone.runs)
    scores = arm_variances(np.stack(values), np.stack(residuals))
    assert scores.runs[1] == pytest.approx(arm_variances(values[1], residuals[1]).runs)


def test_an_arm_whose_seeds_scatter_more_is_not_given_the_variance_of_the_others():
    scores = made_up(np.random.default_rng(3), 3, 4, 50)
    scores[0] += np.array([-0.3, 0.3, -0.2, 0.2])[:, np.newaxis]
    found = pair_variances(*parts(scores), PAIRS)
    assert found.runs[0] > 1.2 * found.runs[2]
    assert found.runs[2] == pytest.approx(2 / 4 * parts(scores)[0].var(axis=1, ddof=1).mean())


def test_tests_are_more_cautious_with_few_seeds():
    cautions = {
        (arms, seeds): pair_variances(*parts(made_up(np.random.default_rng(1), arms, seeds, 9)), [(0, 1)]).caution
        for arms in (2, 4)
        for seeds in (1, 2, 3, 5, 20)
    }
    assert cautions[2, 2] == 1.5
    assert cautions[4, 2] == cautions[4, 3] == cautions[2, 3] == pytest.approx(4 / 3)
    assert cautions[4, 20] == pytest.approx(1.05)
    assert cautions[4, 1] == 1.0


def test_seeds_pool_over_arms_of_unequal_numbers():
    found = pooled_variance([np.array([0.1, 0.3]), np.array([0.5]), np.array([0.1, 0.2, 0.3])])
    assert found == SeedVariance(pytest.approx((0.02 + 0.02) / 3), 3.0)
    assert pooled_variance([np.array([0.1]), np.array([0.5])]) is None


def test_a_variance_from_elsewhere_counts_for_one_seed_and_pools_with_the_own_of_several():
    known = SeedVariance(0.03**2, 6.0)
    once = pair_variances(*parts(made_up(np.random.default_rng(5), 2, 1, 30)), [(0, 1)], known)
    assert (once.runs[0], once.run_freedom) == (pytest.approx(2 * 0.03**2), 6.0)
    arm = arm_variances(*parts(made_up(np.random.default_rng(5), 1, 2, 30, run=0.0)), known)
    assert (arm.runs[0], arm.run_freedom) == (pytest.approx(0.03**2 / 2), 6.0)


def standard_error_by_reml(scores):
    """Return statsmodels' error of a difference: arms fixed, images, arm x image and runs within arms random."""
    import pandas
    from statsmodels.formula.api import mixedlm

    _, num_seeds, num_images = scores.shape
    arm, run, image = np.indices(scores.shape)
    rows = pandas.DataFrame({"score": scores.ravel(), "arm": arm.ravel(), "image": image.ravel(), "all": 1})
    rows["run"], rows["cell"] = (arm * num_seeds + run).ravel(), (arm * num_images + image).ravel()
    sources = {name: f"0 + C({name})" for name in ("image", "cell", "run")}
    model = mixedlm("score ~ C(arm)", rows, groups="all", re_formula="0", vc_formula=sources)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of every variance that is small, as those of fractions are
        return float(model.fit(reml=True, method=["lbfgs"]).bse["C(arm)[T.1]"])


@pytest.mark.parametrize(("num_arms", "num_seeds", "num_images"), [(2, 3, 12), (3, 3, 12), (4, 2, 10)])
def test_the_detectable_difference_is_that_of_a_crossed_random_effects_model(num_arms, num_seeds, num_images):
    generator = np.random.default_rng([num_arms, num_seeds])

    def draw():
        return made_up(generator, num_arms, num_seeds, num_images, run=0.08)

    scores = draw()
    assert standard_error_by_reml(scores) == pytest.approx(float(balanced_reml(*parts(scores))), rel=0.01)
    num_tests = 3 * num_arms * (num_arms - 1) / 2  # three averages
    freedom, level, errors, detectable = num_arms * (num_seeds - 1), 0.05 / num_tests, [], []
    quantiles = special.stdtrit(freedom, 1 - level / 2) + special.stdtrit(num_images - 1, 0.8)
    for _ in range(40):
        scores = draw()
        reference = float(balanced_reml(*parts(scores)))
        variances = pair_variances(*parts(scores), [(0, 1)])
        errors.append(float(variances.images[0] + variances.runs[0]) ** 0.5 / reference)
        difference = sample_differences(Sample([scores], [np.arange(num_images)]), 10)[0, 1]
        detectable.append(minimum_detectable(difference, level) / (quantiles * reference))
    assert np.median(errors) == pytest.approx(1.0, abs=0.15)
    assert np.median(detectable) == pytest.approx(1.0, abs=0.15)
