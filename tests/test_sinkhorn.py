"""Sinkhorn's algorithm and the attention made of it, against plain iterations that autograd follows."""

import pytest
import torch
import torch.nn.functional as F

from heads.otseg import SinkhornAttention, SinkhornDecoder, iterations_needed, sinkhorn_scores, transport_plan
from proxyclip.backbones.checkpoints import fixed_seed


def plain_plan(cost, rows, columns, epsilon=0.05, threshold=1e-6, iterations=100):
    """The plan (S, M, N) and the number of iterations; all problems stop together."""
    u, v = torch.zeros_like(rows), torch.zeros_like(columns)
    for count in range(1, iterations + 1):  # noqa: B007
        before = u
        u = u + epsilon * ((rows + 1e-8).log() - ((u[:, :, None] + v[:, None] - cost) / epsilon).logsumexp(2))
        v = v + epsilon * ((columns + 1e-8).log() - ((u[:, :, None] + v[:, None] - cost) / epsilon).logsumexp(1))
        if (u - before).abs().mean() < threshold:
            break
    return ((u[:, :, None] + v[:, None] - cost) / epsilon).exp(), count


def problems(count=4, rows=9, columns=3, dtype=torch.float32, spread=1.0, seed=0):
    """Costs with random marginals; a small spread takes few iterations."""
    generator = torch.Generator().manual_seed(seed)
    cost = spread * torch.rand(count, rows, columns, generator=generator, dtype=dtype)
    marginals = [torch.rand(count, size, generator=generator, dtype=dtype) + 0.2 for size in (rows, columns)]
    return cost.requires_grad_(), *(marginal / marginal.sum(1, keepdim=True) for marginal in marginals)


def uniform(cost):
    count, rows, columns = cost.shape
    return cost.new_full((count, rows), 1 / rows), cost.new_full((count, columns), 1 / columns)


@pytest.mark.parametrize("epsilon", [0.05, 0.5])
@pytest.mark.parametrize("marginals", ["uniform", "given"])
def test_plan_and_gradient(epsilon, marginals):
    cost, *given = problems(dtype=torch.float64)
    given = given if marginals == "given" else uniform(cost)
    plan = transport_plan(cost, *(given if marginals == "given" else ()), epsilon=epsilon)
    expected, count = plain_plan(cost, *given, epsilon=epsilon)
    assert iterations_needed(cost, *given, epsilon=epsilon) == count
    torch.testing.assert_close(plan, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(plan.sum(1), given[1], rtol=1e-6, atol=1e-9)
    weight = torch.randn(cost.shape, generator=torch.Generator().manual_seed(1), dtype=cost.dtype)
    found, wanted = (torch.autograd.grad((weight * p).sum(), cost)[0] for p in (plan, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


def test_the_iteration_stops_at_the_threshold_or_the_limit():
    cost, rows, columns = problems()
    counts = {}
    for threshold, limit in ((1e-6, 100), (1e-3, 100), (1e-6, 3)):
        choices = {"threshold": threshold, "iterations": limit}
        counts[threshold, limit] = iterations_needed(cost, rows, columns, **choices)
        expected, count = plain_plan(cost, rows, columns, **choices)
        assert counts[threshold, limit] == count
        torch.testing.assert_close(transport_plan(cost, rows, columns, **choices), expected, rtol=1e-5, atol=1e-7)
    assert 3 == counts[1e-6, 3] < counts[1e-3, 100] < counts[1e-6, 100] < 100


def test_groups_stop_on_their_own():
    """Two easy problems and two hard ones: each group has the plan and the gradient that it has without the other."""
    easy, hard = problems(2, spread=0.05, dtype=torch.float64), problems(2, spread=1.0, dtype=torch.float64, seed=1)
    both = [torch.cat(pair).detach() for pair in zip(easy, hard, strict=True)]
    counts = [iterations_needed(*group) for group in (easy, hard)]
    assert counts[0] < counts[1]
    both[0].requires_grad_()
    weight = torch.randn(both[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plan = transport_plan(*both, groups=2)
    gradient = torch.autograd.grad((weight * plan).sum(), both[0])[0]
    for place, (cost, *marginals) in ((slice(0, 2), easy), (slice(2, 4), hard)):
        alone, _ = plain_plan(cost, *marginals)
        torch.testing.assert_close(plan[place], alone, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(gradient[place], torch.autograd.grad((weight[place] * alone).sum(), cost)[0])
    together, _ = plain_plan(*both)
    assert (plan - together).abs().max() > 1e-10  # the easy ones would have gone on


def test_gradient_by_finite_differences():
    cost, *marginals = problems(2, 5, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda c: transport_plan(c, *marginals, threshold=0.0, iterations=4), cost)


def test_half_precision_is_computed_in_float32():
    cost = problems()[0].detach()
    for dtype in (torch.bfloat16, torch.float16):
        plan = transport_plan(cost.to(dtype))
        assert plan.dtype == torch.float32 and torch.equal(plan, transport_plan(cost.to(dtype).float()))


def test_large_costs_stay_finite():
    """The plan of costs far above epsilon is nearly a matching; in log space nothing overflows."""
    cost = problems(spread=50.0)[0]
    plan = transport_plan(cost)
    plan.square().sum().backward()
    assert plan.isfinite().all() and cost.grad.isfinite().all()


def queries_and_memory(batch=3, classes=2, prompts=4, patches=15, width=8):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(batch, classes, prompts, width, generator=generator)
    return queries, torch.randn(batch, patches, width, generator=generator)


def plain_scores(queries, memory):
    """Scores (K, M) and plans (K, M, P) of one image with queries (K, P, E) and patches (M, E)."""
    similarity = torch.stack([F.normalize(memory, dim=1) @ F.normalize(prompts, dim=1).T for prompts in queries])
    plan, _ = plain_plan(1 - similarity, *uniform(similarity))
    return similarity[0].numel() * (plan * similarity).sum(2), plan


def test_scores_of_an_image_do_not_depend_on_the_batch():
    queries, memory = queries_and_memory()
    for outcome, of_both in enumerate(zip(*map(plain_scores, queries, memory), strict=True)):
        torch.testing.assert_close(sinkhorn_scores(queries, memory, per_image=True)[outcome], torch.stack(of_both))
    scores, plans = sinkhorn_scores(queries, memory, per_image=True)
    for index in range(len(queries)):
        alone = sinkhorn_scores(queries[index : index + 1], memory[index : index + 1], per_image=True)
        torch.testing.assert_close(scores[index], alone[0][0], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(plans[index], alone[1][0], rtol=1e-6, atol=1e-9)


def test_in_training_all_images_stop_together():
    """As in the published code."""
    queries, memory = queries_and_memory()
    with fixed_seed():
        attention = SinkhornAttention(8, dropout=0.0)
    with torch.no_grad():
        inputs = attention.query(queries), attention.key(memory)
        (together, plan), alone = (sinkhorn_scores(*inputs, per_image=choice) for choice in (False, True))
        assert torch.equal(attention.train()(queries, memory)[0], together)
        assert torch.equal(attention.eval()(queries, memory)[0], alone[0])
    assert not torch.equal(plan, alone[1])
    cost = 1 - torch.einsum("bkpe,bme->bkmp", *(F.normalize(part, dim=-1) for part in inputs)).flatten(0, 1)
    torch.testing.assert_close(plan.flatten(0, 1), plain_plan(cost, *uniform(cost))[0])


def test_scores_are_computed_in_float32_under_autocast():
    queries, memory = queries_and_memory()
    expected = sinkhorn_scores(queries, memory, per_image=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = sinkhorn_scores(queries, memory, per_image=True)
    assert all(map(torch.equal, found, expected))


def test_dropout_takes_weights_out_of_the_plan_but_not_out_of_the_scores():
    queries, memory = queries_and_memory()
    attention = SinkhornAttention(8, dropout=0.5)
    for training in (True, False):
        (scores, mixed), (again, other) = (attention.train(training)(queries, memory) for _ in range(2))
        assert torch.equal(scores, again) and torch.equal(mixed, other) != training


def test_decoder():
    """Prompts as queries, one problem per class, the product of the layers' scores as the mask."""
    queries, memory = queries_and_memory()
    with fixed_seed():
        decoder = SinkhornDecoder(8, layers=3, dropout=0.1).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in decoder.parameters():  # layers start alike, and norms as if they were not there
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        masks = decoder(queries, memory)
        for image in range(len(queries)):
            expected = plain_decoder(decoder, queries[image], memory[image])
            torch.testing.assert_close(masks[image], expected, rtol=1e-4, atol=1e-4)


def plain_decoder(decoder, queries, memory):
    """(K, P, E), (M, E) -> (K, M)."""
    maps = []
    for layer, attention in enumerate(decoder.attentions):
        scores, plan = plain_scores(attention.query(queries), attention.key(memory))
        maps.append(scores)
        if layer == len(decoder.updates):
            break
        update = decoder.updates[layer]
        mixed = torch.stack([attention.projection(weights.T @ attention.value(memory)) for weights in plan])
        queries = update.norm_attention(queries + mixed)
        queries = update.norm_network(queries + update.narrow(F.relu(update.widen(queries))))
    *earlier, last = maps
    for scores in earlier:
        last = last * scores.sigmoid() ** (1 / len(earlier))
    return last
