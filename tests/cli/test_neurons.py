"""`monosem neurons` from the command line."""

import json

import pytest

from monosem import cli


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A little Python, which 1L-a has read."""
    file = tmp_path_factory.mktemp("text") / "code.py"
    lines = [f"import numpy as np\nx_{i} = np.zeros({i})\nself.x_{i} = x_{i}" for i in range(120)]
    file.write_text("\n".join(lines))
    return str(file)


def run(capsys, *given):
    assert cli.main(["neurons", *given]) == 0
    return capsys.readouterr().out


def test_the_search_lists_tokens_with_a_neuron_of_their_own(capsys):
    record = json.loads(run(capsys, "1L-a", "--n", "5", "--device", "cpu", "--json"))
    assert len(record["writers"]) == 5
    assert {"token", "layer", "index", "congruence", "lead"} == set(record["writers"][0])
    assert all(n["kind"] for n in record["neurons"])
    shown = run(capsys, "1L-a", "--n", "5", "--device", "cpu")
    first, note = shown.splitlines()[2], shown.splitlines()[-1]
    neuron = f"{record['writers'][0]['layer']}.{record['writers'][0]['index']}"
    assert neuron in first.split()
    assert "of 4,096 tokens have a neuron" in note


def test_one_neuron_is_described_with_and_without_text(capsys, text):
    alone = json.loads(run(capsys, "1L-a", "--neuron", "0.262", "--device", "cpu", "--json"))
    assert alone["kind"] == "one token"
    assert alone["texts"] == ["' sele'"]
    assert alone["uses"] is alone["feeders"] is alone["ablations"] is None
    given = ["1L-a", "--neuron", "0.76", "--device", "cpu", "--text", text, "--n-contexts", "4"]
    read = json.loads(run(capsys, *given, "--json"))
    assert read["uses"]["verdict"] == "too few"
    assert [a["how"] for a in read["ablations"]] == ["mean", "resample"]
    assert read["feeders"][0]["kind"] in ("token", "head", "bias", "position")
    shown = run(capsys, *given)
    assert "writes several meanings" in shown
    assert "mean-ablated, the loss changes by" in shown


def test_the_embeddings_stand_beside_an_untrained_model(capsys, tmp_path, text):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from monosem.models.language_model import load_model

    original = load_model("1L-a", device="cpu")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=4096, n_embd=16, n_layer=1, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    original.tokenizer.save_pretrained(tmp_path)
    given = [str(tmp_path), "--embeddings", "--text", text, "--n-contexts", "4"]
    record = json.loads(run(capsys, *given, "--device", "cpu", "--json"))
    assert {m["matrix"] for m in record["measures"]} == {"W_E", "W_pos"}
    assert "frequency_r2" in {m["measure"] for m in record["measures"]}
    (space,) = [o for o in record["offsets"] if o["kind"] == "space"]
    assert space["n"] > 100
    assert abs(space["shared"]) < 0.05  # this model has learnt nothing
    shown = run(capsys, *given, "--device", "cpu")
    assert "intrinsic dimension of the set of rows" in shown
    assert "told: held-out variants found with it" in shown
    (few,) = [line for line in shown.splitlines() if line.startswith("Too few pairs")]
    absent = {o["kind"]: o["n"] for o in record["offsets"] if o["shared"] is None}
    assert few.endswith(", ".join(f"{kind} ({n})" for kind, n in absent.items()) + ".")
    assert "—" not in shown


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["1L-a", "--neuron", "83"], "LAYER.INDEX"),
        (["1L-a", "--neuron", "0.512"], "0 to 511"),
        (["1L-a", "--neuron", "1.2"], "There is no layer 1"),
        (["1L-a", "--neuron", "0.1", "--embeddings"], "Leave one of them out"),
        (["1L-a", "--n", "0"], "`n` must be at least 1"),
        (["1L-a", "--neuron", "0.1", "--text", "none.txt"], "cannot be read as text"),
        (["1L-a", "--text", "none.txt"], "reads weights, no text"),
    ],
)
def test_what_cannot_work_is_said(capsys, given, says):
    assert cli.main(["neurons", *given]) == 2
    assert says in capsys.readouterr().err
