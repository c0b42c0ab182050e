"""Random search, evolution and the controller: what they propose and learn, and that a seed decides all of it."""

import math
from collections import Counter
from itertools import pairwise, product
from random import Random

import numpy as np
import pytest
import torch
from torch import nn

from descend.search.policies import Controller, Evolution, RandomSearch, Result, catalog, register
from descend.search.policies.controller import clipped
from descend.search.policies.recurrent import drawn
from descend.search.space import SearchError


class Letters:
    """Sentences in which no token may follow its like, unless the space is free."""

    name = "letters"

    def __init__(self, *sizes, free=False):
        self._sizes, self._free = sizes, free
        self.length = len(sizes)

    def sizes(self):
        return self._sizes

    def allowed(self, prefix):
        return [self._free or not prefix or token != prefix[-1] for token in range(self._sizes[len(prefix)])]

    def random(self, random):
        sentence = []
        while len(sentence) < self.length:
            mask = self.allowed(sentence)
            sentence.append(random.choice([token for token, may in enumerate(mask) if may]))
        return tuple(sentence)

    def mutate(self, member, random):
        while True:
            place = random.randrange(self.length)
            changed = (*member[:place], random.randrange(self._sizes[place]), *member[place + 1 :])
            if changed != member and self.permits(changed):
                return changed

    def permits(self, sentence):
        return all(self.allowed(sentence[:place])[token] for place, token in enumerate(sentence))

    def every(self):
        return [sentence for sentence in product(*map(range, self._sizes)) if self.permits(sentence)]


class Pedigree:
    """Members are numbers; every one is new, and its parent is remembered."""

    name = "pedigree"

    def __init__(self):
        self.parents, self.count = {}, 0

    def random(self, random):
        self.count += 1
        self.parents[self.count] = None
        return self.count

    def mutate(self, member, random):
        child = self.random(random)
        self.parents[child] = member
        return child


SPACE = Letters(4, 4, 3)


def itself(member):
    return member


def make(name, seed=0, space=SPACE):
    return catalog()[name](space, seed=seed, **({"identify": itself} if name == "evolution" else {}))


def judge(member):
    """A result that depends on the member alone: every fifth or so is invalid."""
    number = Random(hash(member)).random()
    return Result(None if number < 0.2 else number, repeat=number > 0.9)


def history(policy, rounds, judge=judge):
    asked = []
    for count in rounds:
        members = policy.ask(count)
        policy.tell(members, list(map(judge, members)))
        asked += members
    return asked


POLICIES = pytest.mark.parametrize("name", sorted(catalog()))


def test_the_catalog_holds_what_is_registered():
    assert catalog() == {"controller": Controller, "evolution": Evolution, "random": RandomSearch}
    with pytest.raises(ValueError, match="'random' is registered already: choose another"):
        register(RandomSearch)


@POLICIES
def test_a_seed_and_what_is_told_decide_what_is_asked(name):
    rounds = [1, 30, 30, 30, 9]
    first = history(make(name), rounds)
    torch.rand(1)
    assert history(make(name), rounds) == first
    assert history(make(name, seed=1), rounds) != first
    assert all(SPACE.permits(member) for member in first)


@pytest.mark.parametrize("name", ["controller", "evolution"])
def test_other_results_lead_to_other_proposals(name):
    def opposite(member):
        return Result(sum(member) / 8)

    rounds = [60] * 4
    first, second = (history(make(name), rounds, rewards) for rewards in (judge, opposite))
    assert first[:60] == second[:60]
    assert first[60:] != second[60:]


@POLICIES
def test_nobody_elses_random_numbers_are_touched(name):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), __import__("random").getstate()
    history(make(name), [60, 60])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert __import__("random").getstate() == before[2]


@POLICIES
def test_what_is_asked_and_told_is_checked(name):
    policy = make(name)
    for count, error in ((0, ValueError), (1.5, ValueError), ("2", TypeError), (True, TypeError)):
        with pytest.raises(error, match="count must be a whole number from 1 up"):
            policy.ask(count)
    members = policy.ask(2)
    with pytest.raises(ValueError, match="1 results for 2 members"):
        policy.tell(members, [Result(0.5)])
    with pytest.raises(TypeError, match=r"Result\(reward, repeat\); got 0.5"):
        policy.tell(members, [Result(0.5), 0.5])
    policy.tell(members, [Result(0.5), Result(None)])
    for seed, error in ((-1, ValueError), (2**63, ValueError), (0.5, ValueError), (None, TypeError)):
        with pytest.raises(error, match=f"{name}: seed must be"):
            make(name, seed=seed)


def test_results_are_checked():
    assert Result(1) == Result(1.0, repeat=False)
    for reward, error in ((-0.1, ValueError), (1.1, ValueError), (math.nan, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="reward"):
            Result(reward)
    with pytest.raises(TypeError, match="repeat must be True or False"):
        Result(0.5, 1)


def test_random_search_does_not_depend_on_rounds():
    whole = make("random").ask(20)
    assert history(make("random"), [10, 3, 7]) == whole
    counts = Counter(make("random").ask(4000))
    every = SPACE.every()
    assert set(counts) == set(every)


# ---- evolution


def settled(rewards, space, **settings):
    """An evolution whose population is full of members with these rewards, the oldest first."""
    policy = Evolution(space, identify=itself, population=len(rewards), **{"second": 0, **settings})
    members = policy.ask(len(rewards))
    policy.tell(members, [Result(reward) for reward in rewards])
    return policy, members


def parents_of(policy, space, count):
    return Counter(space.parents[child] for child in policy.ask(count))


def test_the_oldest_dies_even_if_it_is_the_best():
    space = Pedigree()
    policy, (best, *others) = settled([1.0, 0.2, 0.1], space, tournament=3)
    assert parents_of(policy, space, 50)[best] > 25
    [child] = policy.ask(1)
    policy.tell([child], [Result(0.3)])
    parents = parents_of(policy, space, 200)
    assert set(parents) == {child, *others}
    assert parents[child] > 100


def test_the_best_of_a_tournament_is_the_parent():
    space = Pedigree()
    rewards = [0.3, 0.9, 0.1, 0.5, 0.7]
    policy, members = settled(rewards, space, tournament=2)
    parents, count = parents_of(policy, space, 4000), 4000
    for member, reward in zip(members, rewards, strict=True):
        beaten = sum(other < reward for other in rewards)
        share = ((beaten + 1) ** 2 - beaten**2) / 25  # both drawn from what is no better, not both from what is worse
        assert parents[member] == pytest.approx(count * share, abs=5 * math.sqrt(count * share * (1 - share)))


def test_parents_are_those_of_the_population_at_the_ask():
    space = Pedigree()
    policy, members = settled([0.1, 0.2, 0.3, 0.4], space, tournament=1)
    first, second = policy.ask(100), policy.ask(100)
    assert {space.parents[child] for child in first + second} == set(members)
    policy.tell(first, [Result(0.5)] * 100)
    assert set(parents_of(policy, space, 100)) == set(first[-4:])


def test_the_first_proposals_are_random():
    space = Pedigree()
    policy = Evolution(space, identify=itself, population=4, tournament=2, second=0)
    for result in (Result(None), Result(0.5), Result(0.5), Result(0.5, repeat=True)):
        [member] = policy.ask(1)
        assert space.parents[member] is None
        policy.tell([member], [result])
    assert set(parents_of(policy, space, 50)) == {2, 3, 4}  # the invalid one did not enter, the repeat did


def test_proposals_are_random_as_long_as_nobody_lives():
    space = Pedigree()
    policy = Evolution(space, identify=itself, population=2, tournament=2, second=0)
    for _ in range(3):
        members = policy.ask(2)
        assert {space.parents[member] for member in members} == {None}
        policy.tell(members, [Result(None)] * 2)
    [member] = policy.ask(1)
    policy.tell([member], [Result(0.0)])
    assert set(parents_of(policy, space, 5)) == {member}


def test_a_warm_start_fills_the_population():
    space = Pedigree()
    known = [space.random(None) for _ in range(2)]
    policy = Evolution(
        space, identify=itself, population=5, tournament=1, second=0, start=[known[0], known[1], known[1]]
    )
    asked = policy.ask(2000)
    assert asked[:2] == known  # once each
    assert not set(known) & set(asked[2:])
    parents = Counter(space.parents[child] for child in asked[2:])
    assert set(parents) == set(known)  # before anything is told
    policy.tell(asked[:2], [Result(0.5), Result(0.6)])
    parents = parents_of(policy, space, 2000)
    assert set(parents) == set(known)
    assert parents[known[0]] == pytest.approx(2000 * 2 / 5, abs=110)  # a b b a b
    policy.tell(asked[2:5], [Result(0.1)] * 3)
    assert set(parents_of(policy, space, 300)) == {known[1], *asked[2:5]}  # what is told first is the oldest


def test_a_start_that_is_told_again_enters_once():
    space = Pedigree()
    known = space.random(None)
    policy = Evolution(space, identify=itself, population=4, tournament=1, second=0, start=[known])
    policy.tell(policy.ask(1), [Result(0.5)])
    children = policy.ask(3)
    policy.tell([*children, known], [*[Result(0.5)] * 3, Result(0.5, repeat=True)])
    assert set(parents_of(policy, space, 200)) == {*children, known}


def test_an_invalid_start_is_mutated_all_the_same():
    space = Pedigree()
    known = space.random(None)
    policy = Evolution(space, identify=itself, population=4, tournament=1, start=[known])
    policy.tell(policy.ask(1), [Result(None)])
    [child] = policy.ask(1)
    assert child != known
    policy.tell([child], [Result(0.1)])
    assert space.parents[policy.ask(1)[0]] in (child, child + 1)  # perhaps by a second mutation


def mutations(space, policy, count):
    before = space.count
    policy.ask(count)
    return space.count - before


@pytest.mark.parametrize("kind", ["seen", None])
@pytest.mark.parametrize(("skip", "tries"), [(0, 1), (0.9, 10), (1, 100)])
def test_children_that_were_seen_or_are_invalid_are_skipped(kind, skip, tries):
    space = Pedigree()
    classes = {1: "seen"}  # the parent, then the kind of all others
    policy = Evolution(
        space, identify=lambda member: classes.get(member, kind), population=1, tournament=1, second=0, skip=skip
    )
    policy.tell(policy.ask(1), [Result(0.5)])
    made = mutations(space, policy, 1000 if skip == 0.9 else 10)
    assert made == pytest.approx(1000 * tries, rel=0.15) if skip == 0.9 else made == 10 * tries


def test_new_children_are_not_skipped():
    space = Pedigree()
    policy, _ = settled([0.5], space, tournament=1, skip=1)
    assert mutations(space, policy, 50) == 50
    letters = Letters(5, 5, free=True)
    policy = Evolution(letters, identify=itself, population=1, tournament=1, second=0, skip=1)
    policy.tell(policy.ask(1), [Result(0.5)])
    assert len(set(policy.ask(8))) == 8  # all the neighbours, none twice


@pytest.mark.parametrize(("second", "mean"), [(0, 1), (0.3, 1.3), (1, 2)])
def test_some_children_are_mutated_twice(second, mean):
    space = Pedigree()
    policy, [parent] = settled([0.5], space, tournament=1, second=second)
    assert mutations(space, policy, 1000) == pytest.approx(1000 * mean, abs=75 if second == 0.3 else 0)
    [child] = policy.ask(1)
    if second == 1:
        child = space.parents[child]
    assert second == 0.3 or space.parents[child] == parent


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"identify": None}, TypeError, "identify must be a function"),
        ({"population": 0}, ValueError, "population must be a whole number from 1 up"),
        ({"tournament": 51}, ValueError, "tournament must be at most the population, 50"),
        ({"tournament": 0}, ValueError, "tournament must be a whole number"),
        ({"second": 1.5}, ValueError, "second must be a probability"),
        ({"skip": -0.1}, ValueError, "skip must be a probability"),
        ({"skip": "1"}, TypeError, "skip must be a finite number"),
        ({"start": []}, ValueError, "start must have 1 to 50 members"),
        ({"start": [(0, 1, 0)] * 51}, ValueError, "give fewer, raise population, or give None"),
    ],
)
def test_settings_of_evolution_are_checked(settings, error, message):
    with pytest.raises(error, match=message):
        Evolution(SPACE, **{"identify": itself, **settings})


# ---- the controller's network


def oracle(policy, sentences):
    """Log-probabilities and entropies of tokens by torch's own cell and distributions, one sentence at a time."""
    first, embedding, input_weight, state_weight, bias, heads, head_biases = policy._network.parameters()
    hidden = first.shape[1]
    cell = nn.LSTMCell(hidden, hidden)
    weights = {"weight_ih": input_weight, "weight_hh": state_weight, "bias_ih": bias, "bias_hh": torch.zeros_like(bias)}
    kinds = sorted(set(SPACE.sizes()))
    log_probabilities, entropies = [], []
    for sentence in sentences:
        state, inputs = None, first
        for place, token in enumerate(sentence):
            state = torch.func.functional_call(cell, weights, (inputs, state) if state else (inputs,))
            kind = kinds.index(SPACE.sizes()[place])
            allowed = [word for word, may in enumerate(SPACE.allowed(sentence[:place])) if may]
            logits = state[0][0] @ heads[kind].T + head_biases[kind]
            drawn = torch.distributions.Categorical(logits=logits[allowed])
            log_probabilities.append(drawn.log_prob(torch.tensor(allowed.index(token))))
            entropies.append(drawn.entropy())
            inputs = embedding[sum(kinds[:kind]) + token][None]
    shape = len(sentences), SPACE.length
    return torch.stack(log_probabilities).reshape(shape), torch.stack(entropies).reshape(shape)


def trained(**settings):
    """A controller that has left its beginnings."""
    policy = Controller(SPACE, hidden=8, batch=10, rate=0.05, **settings)
    history(policy, [10] * 8, lambda member: Result(member[0] / 3))
    return policy


def test_the_probability_of_a_sentence_is_the_product_of_its_tokens():
    policy, every = trained(), SPACE.every()
    found = policy.log_probabilities(every)
    torch.testing.assert_close(found, oracle(policy, every)[0].sum(1).detach(), rtol=1e-5, atol=1e-5)
    assert found.max() - found.min() > 1  # it has learned something
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_sentences_are_written_as_often_as_they_are_probable():
    policy, every = trained(), SPACE.every()
    counts = Counter(policy.ask(20_000))
    assert set(counts) <= set(every)
    expected = policy.log_probabilities(every).exp() * 20_000
    chi_squared = sum((counts[sentence] - n) ** 2 / n for sentence, n in zip(every, expected.tolist(), strict=True))
    freedom = len(every) - 1
    assert chi_squared < freedom + 5 * math.sqrt(2 * freedom)


def test_forbidden_tokens_have_no_probability():
    policy = trained()
    forbidden = [(1, 1, 0), (0, 2, 2)]
    assert policy.log_probabilities([*forbidden, (1, 0, 1)]).isinf().tolist() == [True, True, False]
    assert all(weight.isfinite().all() for weight in policy._network.parameters())
    assert all(SPACE.permits(sentence) for sentence in policy.ask(2000))


def test_the_ends_of_the_uniform_numbers_draw_no_forbidden_token():
    rows = torch.tensor([[-math.inf, 0.2, -math.inf, 0.5, -math.inf]]).log_softmax(1).expand(2, -1)
    assert drawn(rows, torch.tensor([[0.0], [1 - 2**-53]], dtype=torch.float64)).tolist() == [[1], [3]]


def test_weights_begin_uniform():
    policy = Controller(SPACE)
    weights = torch.cat([weight.detach().flatten() for weight in policy._network.parameters()])
    assert weights.abs().max() <= 0.08
    assert weights.std().item() == pytest.approx(0.16 / math.sqrt(12), rel=0.02)


# ---- its updates


def scores_of(results, ranked, penalty):
    """The rewards that the controller learns from, by definition."""
    scores, past = [], []
    for result in results:
        if penalty is not None and (result.repeat or result.reward is None):
            scores.append(-penalty)
            continue
        reward = result.reward or 0.0
        share = sum(other < reward for other in past) / len(past) if past else 0.0
        scores.append(share**2 if ranked else reward)
        if result.reward is not None and not result.repeat:
            past.append(reward)
    return scores


def told(policy, count, seed):
    random = Random(seed)
    members = policy.ask(count)
    results = [Result(random.choice([None, 0.0, 0.3, random.random()]), random.random() < 0.3) for _ in members]
    return members, results


@pytest.mark.parametrize("ranked", [True, False])
@pytest.mark.parametrize("penalty", [0.2, None])
def test_the_gradient_is_that_of_the_gain(ranked, penalty):
    policy = Controller(SPACE, hidden=8, batch=6, entropy=0.1, baseline_decay=0.7, ranked=ranked, penalty=penalty)
    results, baseline = [], None
    for seed in range(3):
        members, news = told(policy, 6, seed)
        results += news
        weights = [weight.detach().clone() for weight in policy._network.parameters()]
        policy.tell(members, news)
        found = [weight.grad.clone() for weight in policy._network.parameters()]
        changed = [weight.detach().clone() for weight in policy._network.parameters()]
        scores = torch.tensor(scores_of(results, ranked, penalty)[-6:])
        baseline = scores.mean() if baseline is None else baseline
        with torch.no_grad():
            for weight, old in zip(policy._network.parameters(), weights, strict=True):
                weight.copy_(old)
        log_probabilities, entropies = oracle(policy, members)
        gain = ((scores - baseline) * log_probabilities.sum(1)).mean() + 0.1 * entropies.sum(1).mean()
        expected = torch.autograd.grad(-gain, policy._network.parameters())
        torch.testing.assert_close(found, list(expected), rtol=1e-3, atol=1e-6)
        with torch.no_grad():
            for weight, new in zip(policy._network.parameters(), changed, strict=True):
                weight.copy_(new)
        baseline = 0.7 * baseline + 0.3 * scores.mean()


def test_the_clipped_gain_is_ppo():
    """Equation 7 by cases: what would push the ratio further out of its range has no gradient."""
    ratios = torch.tensor([0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 3.0], dtype=torch.float64).repeat(2)
    advantages = torch.tensor([0.7] * 7 + [-0.7] * 7, dtype=torch.float64)
    before = torch.full((14,), -1.3, dtype=torch.float64)
    now = (before + ratios.log()).requires_grad_()
    gains = clipped(now, before, advantages, 0.2)
    gradient = torch.autograd.grad(gains.sum(), now)[0]
    for ratio, advantage, gain, slope in zip(ratios, advantages, gains, gradient, strict=True):
        held = (advantage > 0 and ratio > 1.2) or (advantage < 0 and ratio < 0.8)
        limit = 1.2 if advantage > 0 else 0.8
        assert gain.item() == pytest.approx(((limit if held else ratio) * advantage).item())
        assert slope.item() == pytest.approx(0 if held else (ratio * advantage).item())


def twins(**settings):
    return [Controller(SPACE, hidden=8, batch=6, objective=objective, **settings) for objective in ("reinforce", "ppo")]


def test_ppo_begins_as_reinforce_and_goes_on():
    reinforce, ppo = twins(epochs=1, entropy=0)
    for policy in (reinforce, ppo):
        policy.tell(*told(policy, 6, 0))
    for one, other in zip(reinforce._network.parameters(), ppo._network.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    once, many = (Controller(SPACE, hidden=8, batch=6, objective="ppo", epochs=epochs) for epochs in (1, 4))
    for policy in (once, many):
        policy.tell(*told(policy, 6, 0))
    assert not torch.allclose(once._network.parameters()[0], many._network.parameters()[0])


def test_ppo_takes_the_probabilities_at_the_time_of_writing():
    """A sentence that was written two updates ago is held to its probability then, not to the one of today."""
    policy = Controller(SPACE, hidden=8, batch=6, rate=0.2, objective="ppo", epochs=1, entropy=0, ranked=False)
    members = policy.ask(18)
    with torch.no_grad():
        before = oracle(policy, members[12:])[0]
    results = [Result(member[0] / 3) for member in members]
    policy.tell(members[:12], results[:12])
    now, _ = oracle(policy, members[12:])
    scores = [[result.reward for result in results[start : start + 6]] for start in (0, 6, 12)]
    means = [sum(batch) / 6 for batch in scores]
    baseline = 0.9 * means[0] + 0.1 * means[1]  # the first baseline is the first mean
    gain = torch.zeros(())
    for row, old, score in zip(now, before, scores[2], strict=True):
        for ratio in (row - old).exp():
            gain = gain + torch.min(ratio * (score - baseline), ratio.clamp(0.8, 1.2) * (score - baseline)) / 6
    expected = torch.autograd.grad(-gain, policy._network.parameters())
    assert ((now - before).exp() - 1).abs().max() > 0.2
    policy.tell(members[12:], results[12:])
    torch.testing.assert_close(
        [weight.grad for weight in policy._network.parameters()], list(expected), rtol=1e-3, atol=1e-6
    )


def test_updates_happen_when_a_batch_has_gathered():
    policy = Controller(SPACE, hidden=8, batch=5)
    weight = policy._network.parameters()[0]
    versions = []
    for _ in range(5):
        history(policy, [2])
        versions.append(weight.detach().clone())
    same = [torch.equal(one, other) for one, other in pairwise(versions)]
    assert same == [True, False, True, False]  # at 5 and 10 of 2, 4, 6, 8, 10


def test_results_come_in_the_order_of_asking():
    policy = Controller(SPACE, batch=3)
    members = policy.ask(4)
    other = next(sentence for sentence in SPACE.every() if sentence != members[0])
    results = [Result(0.5)] * 4
    for wrong in ([other, *members[1:]], [*members, members[0]]):
        with pytest.raises(ValueError, match="in the order of asking, once"):
            policy.tell(wrong, results + results[: len(wrong) - 4])
    policy.tell(members[:3], results[:3])
    policy.tell(members[3:], results[3:])
    with pytest.raises(ValueError, match=r"members\[0\]"):
        policy.tell(members[3:], results[3:])


def test_threads_do_not_matter():
    asked = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            asked.append(history(Controller(SPACE), [20] * 5))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(1)
    assert asked[0] == asked[1]


@pytest.mark.usefixtures("float64")
def test_nor_does_what_surrounds_it():
    with torch.no_grad():
        asked = history(make("controller"), [20] * 5)
    torch.set_default_dtype(torch.float32)
    assert asked == history(make("controller"), [20] * 5)


def test_the_published_controller_hardly_moves():
    policy = Controller.published(SPACE)
    assert policy._network.parameters()[0].shape == (1, 150)
    assert policy._adam.param_groups[0]["lr"] == 1e-5
    every = SPACE.every()
    before = policy.log_probabilities(every)
    history(policy, [5] * 10)
    moved = (policy.log_probabilities(every) - before).abs().max().item()
    assert 0 < moved < 0.01


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"objective": "trpo"}, ValueError, "objective is 'trpo'; give 'reinforce' or 'ppo'"),
        ({"hidden": 0}, ValueError, "hidden must be a whole number"),
        ({"rate": 0}, ValueError, "rate must be a finite number above 0"),
        ({"batch": 1.5}, ValueError, "batch must be a whole number"),
        ({"entropy": -1}, ValueError, "entropy must be a finite number from 0 up"),
        ({"baseline_decay": 1}, ValueError, "baseline_decay must be a number from 0 up and below 1"),
        ({"ranked": 1}, TypeError, "ranked must be True or False"),
        ({"penalty": -0.2}, ValueError, "penalty must be a finite number from 0 up"),
        ({"clip": 0}, ValueError, "clip must be a finite number above 0"),
        ({"objective": "ppo", "epochs": 0}, ValueError, "epochs must be a whole number"),
    ],
)
def test_settings_of_the_controller_are_checked(settings, error, message):
    with pytest.raises(error, match=f"controller: {message}"):
        Controller(SPACE, **settings)


def test_spaces_without_sentences_are_refused():
    with pytest.raises(SearchError, match=r"'pedigree' are no sentences \(it has no length, sizes, allowed\)"):
        Controller(Pedigree())
    wrong = Letters(3, 3)
    wrong.length = 3
    with pytest.raises(SearchError, match="2 places for sentences of 3"):
        Controller(wrong)
    for mask in ([True, True], [False] * 3):
        closed = Letters(3, 3)
        closed.allowed = lambda prefix, mask=mask: mask
        with pytest.raises(SearchError, match=r"allowed\(\(\)\) gives"):
            Controller(closed).ask(1)


# ---- what they are for

HILL = Letters(*[5] * 8, free=True)
HEIGHTS = np.random.default_rng(0).random((8, 5))


def height(sentence):
    """Additive in the tokens, from 0 to 1."""
    lowest, highest = HEIGHTS.min(1).sum(), HEIGHTS.max(1).sum()
    return float((HEIGHTS[range(8), list(sentence)].sum() - lowest) / (highest - lowest))


def search(policy, evaluations):
    """The rewards of distinct sentences in the order of finding."""
    found = {}
    while len(found) < evaluations:
        results, members = [], policy.ask(20)
        for member in members:
            repeat = member in found
            reward = found.setdefault(member, height(member))
            results.append(Result(reward, repeat))
        policy.tell(members, results)
    return list(found.values())[:evaluations]


def best_of_20(make, evaluations):
    return np.array([max(search(make(seed), evaluations)) for seed in range(20)])


def test_learning_beats_chance_at_equal_evaluations():
    """In short runs, for which the controller's rate is raised."""
    random = best_of_20(lambda seed: RandomSearch(HILL, seed=seed), 500)
    evolution = best_of_20(lambda seed: Evolution(HILL, seed=seed, identify=itself), 500)
    controller = best_of_20(lambda seed: Controller(HILL, seed=seed, rate=1e-2), 500)
    assert (evolution > random).sum() >= 18
    assert evolution.mean() > random.mean() + 0.05
    assert (controller > random).sum() >= 15
    assert controller.mean() > random.mean() + 0.02


@pytest.mark.long
@pytest.mark.parametrize("settings", [{}, {"objective": "ppo", "rate": 1e-3}])
def test_the_controller_beats_chance_as_it_is(settings):
    random = best_of_20(lambda seed: RandomSearch(HILL, seed=seed), 1000)
    controller = best_of_20(lambda seed: Controller(HILL, seed=seed, **settings), 1000)
    assert (controller > random).sum() >= 14
    assert controller.mean() > random.mean() + 0.01


def distinct_of_the_last(policy, proposals=2000, last=500):
    found, asked = set(), []
    while len(asked) < proposals:
        members = policy.ask(20)
        results = []
        for member in members:
            results.append(Result(height(member), member in found))
            found.add(member)
        policy.tell(members, results)
        asked += members
    return len(set(asked[-last:]))


def test_the_cures_keep_the_controller_from_collapsing():
    cured = distinct_of_the_last(Controller(HILL))
    ill = distinct_of_the_last(Controller(HILL, ranked=False, penalty=None, entropy=0.0015, rate=1e-2))
    assert cured > 250
    assert ill < 25
