#!/usr/bin/env bash
# Half a million words as targets, on a CPU: Multi30k, German → English, without subwords, over the
# words of the training text and those of a list.
#
#   WORDS=FILE [DATA_DIR=…] examples/large-vocabulary/run.sh RECIPE OUT_DIR [more fairseq-train options]
#
# WORDS has a word a line, the most frequent first: python examples/large-vocabulary/words.py --output
# WORDS makes one (pip install wordfreq). VOCABULARY (500000) is the size of the target dictionary.
# DATA_DIR is that of multi30k.de-en. RECIPE is one with a frozen table, whose rows fastText composes
# for words that it has never seen: contrastive-frozen, cosine, l2, vmf, vmf-authors, margin-batch,
# syn-margin or power-spherical; softmax is there to compare with, and takes long. Each validation scores
# every word for each token: --validate-interval N saves time.
# SEARCH (shortlist) is how words are found at decoding: with shortlist among those that the training text makes
# likely given the source, with exact among all; hnsw, ivf and ivfpq are faster, and with
# --unigram-prior seen, an option of the training, ivf finds the same (RESULTS.md).
# No number of the model is one of a target word: the decoder reads rows of the table through a
# projection, and source embeddings have sparse gradients.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

SOURCE_LANG=de TARGET_LANG=en SUBWORD_METHOD=none
: "${VOCABULARY:=500000}" "${WORDS:=}"
# shellcheck source=../lib/multi30k.sh
. "$LIB/multi30k.sh"

SET=large-vocabulary
SOFTMAX_OPTIONS=()
CONTINUOUS_OPTIONS=(--decoder-input table --table-storage file --sparse-gradients)
TRAIN_OPTIONS+=(--optimizer row_adam --max-epoch 5)

if [ $# -ge 2 ]; then # not for --help
  [ -n "$WORDS" ] || die "WORDS must be a file with a word a line, but is not set; python examples/large-vocabulary/words.py --output FILE makes one"
  [ -f "$WORDS" ] || die "WORDS must be a file with a word a line, but $WORDS does not exist"
  [[ $VOCABULARY =~ ^[1-9][0-9]*$ ]] || die "VOCABULARY must be a number of words, 1 or more, but is $VOCABULARY"
  BINARISE_INPUTS="VOCABULARY=$VOCABULARY WORDS=$(checksum "$WORDS")"
fi
# decoding never makes a tensor of the size of the vocabulary either
[ "${1:-}" = softmax ] || : "${SEARCH:=shortlist}"

stage_binarise() {
  "$PYTHON" "$LIB/dictionary.py" --text "$PIECES/train.$TARGET_LANG" \
    --words "$WORDS" --size "$VOCABULARY" --output "$PREP_DIR/words.dict"
  binarise_pairs "$BIN_DIR" --trainpref "$PIECES/train" --validpref "$PIECES/valid" \
    --testpref "$PIECES/test" --tgtdict "$PREP_DIR/words.dict"
}

recipe_main "$@"
