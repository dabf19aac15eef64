"""--knn-search lists: only the words that are listed for a sentence, from a file or after a tab."""

import cli
import pytest
import torch
from decoding import assert_same_hypotheses
from fairseq.data import Dictionary
from searching import WORDS

from fairseq_contout.candidate_lists import ListSearch, read_lists, words_of

LISTS = {"knn_search": "lists"}


def generate(tiny, lists, **options):
    generator = tiny.build(LISTS, **options)
    assert isinstance(generator.slots.searcher, ListSearch)
    generator.slots.searcher.give(lists)
    return generator.generate([tiny.model], tiny.batch)


@pytest.mark.parametrize("options", [{}, {"no_repeat_ngram_size": 2}, {"beam": 1}])
def test_a_list_of_all_words_is_exact_search(options, tiny):
    options = {"beam": 4, **options}
    everything = torch.arange(4, WORDS + 4).expand(5, -1)
    assert_same_hypotheses(tiny.generate({}, **options), generate(tiny, everything, **options))


def test_what_is_not_listed_is_never_produced(tiny):
    lists = torch.randint(4, WORDS + 4, (5, 60), generator=torch.Generator().manual_seed(5))
    lists[:, 40:] = 0  # as fairseq fills up
    found = generate(tiny, lists, beam=4, unkpen=99)
    every, emittable = tiny.generate({}, beam=4, unkpen=99), tiny.table.emittable
    assert [h[0]["tokens"].tolist() for h in every] != [h[0]["tokens"].tolist() for h in found]
    try:  # a sentence with the rows that it may not have taken out of the whole table
        for sentence, allowed in enumerate(lists):
            mask = torch.zeros_like(emittable)
            mask[allowed[:40]] = mask[2:4] = True
            tiny.table.emittable = mask
            expected = tiny.generate({}, beam=4, unkpen=99)[sentence]
            assert_same_hypotheses([expected], [found[sentence]])
            for hypothesis in found[sentence]:
                assert set(hypothesis["tokens"].tolist()) <= {2, *allowed[:40].tolist()}
    finally:
        tiny.table.emittable = emittable


def test_special_symbols_and_padding_words_in_a_list_change_nothing(tiny):
    emittable = tiny.table.emittable
    lists = torch.arange(10, 40).expand(5, -1)
    expected = generate(tiny, lists, beam=4)
    best = expected[0][0]["tokens"]
    more = torch.tensor([0, 1, 2, 3, 7, 2]).expand(5, -1)
    try:
        tiny.table.emittable = emittable.clone()
        tiny.table.emittable[7] = False
        found = generate(tiny, torch.cat((more, lists), dim=1), beam=4)
        assert_same_hypotheses(expected, found)
        tiny.table.emittable[best[0]] = False
        assert best[0] >= 4 and generate(tiny, lists, beam=4)[0][0]["tokens"][0] != best[0]
    finally:
        tiny.table.emittable = emittable


@pytest.mark.parametrize("options", [{}, {"min_len": 4}, {"no_repeat_ngram_size": 2}])
def test_a_list_may_be_shorter_than_a_beam(options, tiny):
    lists = torch.tensor([[9, 0, 0], [4, 5, 6], [7, 8, 0], [11, 0, 0], [40, 50, 60]])
    for sentence, best in enumerate(generate(tiny, lists, beam=5, **options)):
        assert best[0]["score"].isfinite()
        for hypothesis in best:
            if hypothesis["score"].isfinite():
                assert set(hypothesis["tokens"].tolist()) <= {2, 3, *lists[sentence].tolist()} - {0}


def test_a_batch_needs_its_lists(tiny):
    generator = tiny.build(LISTS, beam=2)
    with pytest.raises(ValueError, match="for each of the 5 sentences, but has 0; give them as"):
        generator.generate([tiny.model], tiny.batch)
    generator.slots.searcher.give(torch.full((3, 2), 7))
    with pytest.raises(ValueError, match="for each of the 5 sentences, but has 3"):
        generator.generate([tiny.model], tiny.batch)


def decode(command, corpus, checkpoint, *options, **more):
    return cli.call(
        command, corpus.data, "--path", checkpoint, "--task", "continuous_translation", "--beam", 5,
        "--knn", 10, "--knn-search", "lists", *options, **more,
    )  # fmt: skip


def test_lists_from_a_file_and_after_a_tab(corpus, trained, tmp_path):
    dictionary = Dictionary.load(str(corpus.data / "dict.tgt.txt"))
    everything = [word for word in dictionary.symbols[4:] if "madeup" not in word]
    references = (corpus.raw / "test.tgt").read_text().splitlines()
    # every second sentence may not end in a full stop, and has ki in place of other syllables
    lists = [
        " ".join(word for word in everything if word != "." or i % 2 == 0)
        for i in range(len(references))
    ]
    lists[1] = "ki ki@@"
    (tmp_path / "lists").write_text("\n".join(lists) + "\n")
    output = decode("generate", corpus, trained("cosine"), "--candidate-lists", tmp_path / "lists")
    found = cli.translations(output)
    right = [found[i][0].text == references[i] for i in range(0, len(references), 2)]
    assert sum(right) >= 0.95 * len(right)
    assert all("." not in found[i][0].text for i in range(1, len(references), 2))
    assert set(found[1][0].text.split()) <= {"ki", "ki@@", "<unk>"}
    sources = (corpus.raw / "test.src").read_text().splitlines()
    typed = "".join(f"{source}\t{words}\n" for source, words in zip(sources[:9], lists))
    same = cli.translations(decode("interactive", corpus, trained("cosine"), stdin=typed))
    for i in range(9):
        assert [t.text for t in same[i]] == [t.text for t in found[i]]
    # words that are typed are segmented as the sentence is
    segment = ["--bpe", "subword_nmt", "--bpe-codes", corpus.codes]
    typed = "x kilu me .\tkilu po .\n"
    output = decode("interactive", corpus, trained("cosine"), *segment, stdin=typed)
    produced = cli.translations(output)[0][0].text.split()
    assert "ki@@" in produced and set(produced) <= {"ki@@", "lu", "po", ".", "<unk>"}
    typed = "x ki .\tki\t.\nx ki .\n"
    with pytest.raises(ValueError, match="'x ki .': must list words .* lists none; give them as"):
        decode("interactive", corpus, trained("cosine"), stdin=typed)
    with pytest.raises(ValueError, match="for each of the .* sentences, but has 0"):
        decode("generate", corpus, trained("cosine"))


def test_bad_lists_are_refused(tiny, tmp_path, corpus, trained):
    dictionary, path = tiny.dictionary, tmp_path / "lists"

    def message(content, count=2):
        path.write_bytes(content)
        with pytest.raises(ValueError) as error:
            read_lists(path, dictionary, count)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "line 2: must list words of the target dictionary, but no, nor are none" in message(
        b"w1 w2\nw1 no nor\n"
    )
    assert "line 1: must list words beside special symbols, but" in message(b"\nw1\n")
    assert "line 2: must list words beside special symbols, but" in message(b"w1\n<unk> </s>\n")
    assert "each of the 3 sentences of the data, but has 2" in message(b"w1\nw2\n", 3)
    assert "must be UTF-8" in message(b"\xff\nw1\n")
    path.unlink()
    with pytest.raises(ValueError, match="lists: no such file"):
        read_lists(path, dictionary, 2)
    assert words_of("w1 w3 w1", dictionary, "here").tolist() == [5, 7]
    with pytest.raises(ValueError, match="--candidate-lists x belongs to --knn-search lists, but"):
        tiny.build({"candidate_lists": "x"})
    with pytest.raises(ValueError, match="a language model has none"):
        ListSearch(tiny.table).attend(None)
