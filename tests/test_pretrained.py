"""Translation models that begin with the layers of language models."""

import cli
import pytest
import torch
from fairseq import checkpoint_utils
from language_data import SIZES

TRANSLATION = (
    "--arch continuous_transformer --share-all-embeddings --target-table learned --criterion "
    "contrastive --optimizer adam --lr 0.01 --batch-size 20 --encoder-layers 1 --decoder-layers 1 "
    "--encoder-normalize-before --decoder-normalize-before --no-epoch-checkpoints"
)
for _side in ("encoder", "decoder"):
    TRANSLATION += f" --{_side}-embed-dim 16 --{_side}-ffn-embed-dim 32"
    TRANSLATION += f" --{_side}-attention-heads 2"


@pytest.fixture(scope="module")
def pairs(once, english):
    """English to itself, in the dictionary of the language models."""

    def make(folder):
        for split in ("train", "valid"):
            for lang in ("src", "tgt"):
                (folder / f"{split}.{lang}").write_text((english.parent / split).read_text())
        cli.call(
            "preprocess", "-s", "src", "-t", "tgt", "--trainpref", folder / "train", "--validpref",
            folder / "valid", "--destdir", folder / "data", "--srcdict", english / "dict.txt",
            "--joined-dictionary", "--workers", 1,
        )  # fmt: skip

    return once("pairs", make) / "data"


@pytest.fixture(scope="module")
def causal(language_model):
    return language_model("transformer")


@pytest.fixture(scope="module")
def masked(language_model):
    return language_model("masked-learned", "--encoder-normalize-before")


def translate(pairs, folder, *options, updates=1):
    return cli.call(
        "train", pairs, "--task", "translation", "-s", "src", "-t", "tgt", *TRANSLATION.split(),
        "--save-dir", folder, "--max-update", updates, *options,
    )  # fmt: skip


def weights(path):
    return checkpoint_utils.load_checkpoint_to_cpu(str(path))["model"]


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_layers_of_a_causal_model(pairs, causal, tmp_path, part):
    output = translate(pairs, tmp_path, f"--pretrained-{part}", causal, "--lr", 0)
    assert f"--pretrained-{part} {causal}: " in output and "tensors loaded" in output
    found, given = weights(tmp_path / "checkpoint_last.pt"), weights(causal)
    moved = [key for key in given if key.startswith("decoder.layers.") or "layer_norm" in key]
    assert len(moved) > 10
    for key in moved:
        torch.testing.assert_close(found[part + key[len("decoder") :]], given[key])
    shared = found["encoder.embed_tokens.weight"]
    torch.testing.assert_close(shared, given["decoder.embed_tokens.weight"])
    assert any("encoder_attn" in key for key in found)


def test_decoding_needs_no_other_file(pairs, causal, tmp_path):
    path = tmp_path / "lm.pt"
    path.write_bytes(causal.read_bytes())
    translate(pairs, tmp_path, "--pretrained-decoder", path, updates=3)
    path.unlink()
    output = cli.call(
        "generate", pairs, "--path", tmp_path / "checkpoint_last.pt", "--gen-subset", "valid",
        "--beam", 2, "--batch-size", 20, "--max-len-b", 5,
    )  # fmt: skip
    assert len(cli.translations(output)) == 40


def test_a_training_goes_on_from_its_own_layers(pairs, causal, tmp_path):
    options = ["--pretrained-decoder", causal]
    translate(pairs, tmp_path, *options, updates=3)
    before = weights(tmp_path / "checkpoint_last.pt")
    given = weights(causal)["decoder.layers.0.fc1.weight"]
    assert not torch.equal(before["decoder.layers.0.fc1.weight"], given)
    # the file once more, and a learning rate of 0: nothing moves
    translate(pairs, tmp_path, *options, "--lr", 0, "--reset-optimizer", updates=4)
    after = weights(tmp_path / "checkpoint_last.pt")
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("name", ["table_ema", "table_lr_scale"])
def test_a_tied_table_begins_with_the_embeddings(pairs, causal, language_model, tmp_path, name):
    """The rows of the language model, as it read them, whatever either side multiplies."""
    flag = f"--{name.replace('_', '-')}"
    value = 0.9 if name == "table_ema" else 4
    theirs = causal if name == "table_ema" else language_model("transformer", flag, "4")
    given = weights(theirs)["decoder.embed_tokens.weight"]
    given = given if name == "table_ema" else 4 * given
    options = ["--pretrained-decoder", theirs, "--lr", 0, "--seed", 7]
    translate(pairs, tmp_path / "plain", *options)
    torch.testing.assert_close(
        weights(tmp_path / "plain" / "checkpoint_last.pt")["decoder.embed_tokens.weight"], given
    )
    translate(pairs, tmp_path / "with", *options, flag, value)
    found = weights(tmp_path / "with" / "checkpoint_last.pt")
    if name == "table_ema":
        torch.testing.assert_close(found["decoder.continuous_output.table.average"], given)
    else:
        torch.testing.assert_close(4 * found["decoder.embed_tokens.weight"], given)


def test_embeddings_that_were_read_as_directions(pairs, causal, language_model, tmp_path):
    """Without --fix-norm their lengths are 1 from now on; with it alone, they would be lost."""
    theirs = language_model("transformer", "--fix-norm", "--table-lr-scale", "4")
    given = weights(theirs)["decoder.embed_tokens.weight"]
    lengths = given.norm(dim=1, keepdim=True)
    assert lengths[4:].max() < 0.5
    for name, more in (("plain", []), ("with", ["--fix-norm"])):
        options = ["--pretrained-decoder", theirs, "--lr", 0, *more]
        translate(pairs, tmp_path / name, *options)
        found = weights(tmp_path / name / "checkpoint_last.pt")["decoder.embed_tokens.weight"]
        torch.testing.assert_close(found, given / lengths.clamp(min=1e-9))
    with pytest.raises(ValueError, match="fix_norm would read its embeddings as if all were of"):
        translate(pairs, tmp_path / "lost", "--pretrained-decoder", causal, "--fix-norm")


#: what RoBERTa has and fairseq's Transformer has not by itself
ROBERTA = ["--encoder-learned-pos", "--max-source-positions", "40", "--layernorm-embedding"]
ROBERTA += ["--no-scale-embedding", "--activation-fn", "gelu"]


def test_layers_of_a_masked_model(pairs, masked, tmp_path):
    translate(pairs, tmp_path, "--pretrained-encoder", masked, "--lr", 0, *ROBERTA)
    found, given = weights(tmp_path / "checkpoint_last.pt"), weights(masked)
    prefix = "encoder.sentence_encoder."
    moved = [key for key in given if key.startswith(prefix) and "embed_tokens" not in key]
    assert len(moved) > 10 and any("embed_positions" in key for key in moved)
    for key in moved:
        torch.testing.assert_close(found["encoder." + key[len(prefix) :]], given[key])
    rows = given[prefix + "embed_tokens.weight"]
    torch.testing.assert_close(found["encoder.embed_tokens.weight"], rows[:-1])  # no <mask>


def test_a_masked_model_that_read_directions(pairs, language_model, tmp_path):
    theirs = language_model("masked-learned", "--encoder-normalize-before", "--fix-norm")
    translate(pairs, tmp_path, "--pretrained-encoder", theirs, "--lr", 0, *ROBERTA)
    found = weights(tmp_path / "checkpoint_last.pt")["encoder.embed_tokens.weight"]
    given = weights(theirs)["encoder.sentence_encoder.embed_tokens.weight"][:-1]  # no <mask>
    torch.testing.assert_close(found, torch.nn.functional.normalize(given, dim=-1))
    assert not found.allclose(given)


def test_files_that_do_not_fit(pairs, english, causal, masked, language_model, tmp_path):
    def message(*options):
        with pytest.raises(ValueError) as caught:
            translate(pairs, tmp_path / "out", *options)
        return str(caught.value)

    flag = "--pretrained-decoder"
    found = message(flag, causal, "--decoder-ffn-embed-dim", 24)
    assert "layers.0.fc1.bias has the shape (32,), the model's (24,)" in found
    found = message(flag, causal, "--decoder-layers", 2)
    assert "layers.1.fc1.bias is in the model alone" in found and "more)" in found
    assert "none.pt" in message(flag, tmp_path / "none.pt")
    translate(pairs, tmp_path / "translation")
    found = message(flag, tmp_path / "translation" / "checkpoint_last.pt")
    assert "must be a language model, but its decoder reads an encoder" in found
    (tmp_path / "text.pt").write_text("text")
    assert "must be a checkpoint of fairseq-train" in message(flag, tmp_path / "text.pt")
    found = message("--pretrained-encoder", masked, *ROBERTA[:-2])
    assert "activation_fn was gelu, and activation_fn is relu" in found
    found = message(flag, causal, "--decoder-attention-heads", 4)
    assert "decoder_attention_heads was 2, and decoder_attention_heads is 4" in found
    found = message(flag, causal, "--no-token-positional-embeddings")
    assert "no_token_positional_embeddings was False, and" in found
    found = message(flag, causal, "--no-scale-embedding")
    assert "no_scale_embedding was False, and" in found
    state = torch.load(causal, weights_only=False)
    state["cfg"]["model"].decoder_normalize_before = False
    torch.save(state, tmp_path / "after.pt")
    found = message(flag, tmp_path / "after.pt")
    assert "decoder_normalize_before was False, and" in found
    assert "is in the file alone" in message(flag, language_model("lstm"))
    reads_rows = language_model("transformer-vmf")
    assert "must have an embedding of each word, but reads" in message(flag, reads_rows)
    few = language_model("transformer-few-words")
    assert "was trained with --input-words 50; train one without" in message(flag, few)
    softmax = tmp_path / "softmax"
    cli.call(
        "train", english, "--task", "language_modeling", "--arch", "transformer_lm", "--save-dir",
        softmax, "--max-update", 1, "--batch-size", 20, "--tokens-per-sample", 40,
        *SIZES["continuous_transformer_lm"].split(), "--optimizer", "adam", "--lr", 0.01,
    )  # fmt: skip
    assert "has no target table" in message(flag, softmax / "checkpoint_last.pt")


def test_options_that_begin_the_same_embeddings(pairs, english, causal, language_model, tmp_path):
    def message(*options):
        with pytest.raises(ValueError) as caught:
            translate(pairs, tmp_path / "out", *options)
        return str(caught.value)

    other = language_model("transformer", "--seed", "5")
    found = message("--pretrained-encoder", causal, "--pretrained-decoder", other)
    assert "have different embeddings, but --share-all-embeddings has one for both" in found
    translate(pairs, tmp_path, "--pretrained-encoder", causal, "--pretrained-decoder", causal)
    flag = ["--pretrained-decoder", causal]
    table = english.parent / "table.safetensors"
    assert f"--table-init {table} both say what" in message(*flag, "--table-init", table)
    vectors = tmp_path / "vectors"
    vectors.write_text("1 16\nthe " + " ".join(["1"] * 16) + "\n")
    found = message(*flag, "--encoder-embed-path", vectors, "--decoder-embed-path", vectors)
    assert f"-embed-path {vectors} both say what the same embeddings are" in found


def test_another_dictionary(english, causal, tmp_path):
    for split in ("train", "valid"):
        for lang in ("src", "tgt"):
            (tmp_path / f"{split}.{lang}").write_text((english.parent / "valid").read_text())
    cli.call(
        "preprocess", "-s", "src", "-t", "tgt", "--trainpref", tmp_path / "train", "--validpref",
        tmp_path / "valid", "--destdir", tmp_path / "data", "--joined-dictionary", "--workers", 1,
    )  # fmt: skip
    with pytest.raises(ValueError, match="was trained with another dictionary than the"):
        translate(tmp_path / "data", tmp_path / "out", "--pretrained-decoder", causal)
