import json

from monosem.metrics.evaluate import EvaluateConfig, evaluate_many

SITE = "blocks.0.mlp.hook_post"
SMALL = EvaluateConfig(n_loss_tokens=600, n_mean_tokens=900, n_density_tokens=3000)


def test_try(dictionary, model, store):
    found = evaluate_many({"topk": dictionary}, model, store, SMALL, site=SITE)
    print(json.dumps(found, indent=1))
