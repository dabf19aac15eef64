#!/usr/bin/env bash
# Tatoeba, German → English: short everyday sentences (tatoeba.org, CC BY 2.0 FR, by way of
# https://www.manythings.org/anki).
#
#   [DATA_DIR=…] examples/tatoeba.de-en/run.sh RECIPE OUT_DIR [more fairseq-train options]
#
# DATA_DIR holds either train, valid and test, each .de and .en (plain, .gz or .xz), or the site's
# deu-eng.zip, which grows: then sentences that translate each other go into the same part, about
# 2,000 pairs each into valid and test, so that no sentence of these is in train. Scores of two
# releases, or of your own split, cannot be compared.
# Text: lower-cased and Moses-tokenised; scored detokenised against the published references,
# without case (case:lc in the signature). No paper with continuous outputs has used this set: the
# model and its hyper-parameters are those of multi30k.de-en, with 8,000 merges.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# shellcheck source=../lib/small.sh
. "$LIB/small.sh"

SET=tatoeba.de-en SOURCE_LANG=de TARGET_LANG=en TEST_NAME=tatoeba-test
MAX_RATIO=3
: "${SUBWORDS:=8000}" "${FASTTEXT_EPOCHS:=10}"
TRAIN_OPTIONS+=(--max-epoch 8)

corpus() {
  local url=https://www.manythings.org/anki/deu-eng.zip split lang
  for split in train valid test; do
    for lang in de en; do
      echo "$split $lang plain $split.$lang - $url"
    done
  done
}

# The site's archive holds one table of pairs: cut it into the files that corpus() names.
unpack_corpus() {
  UNPACKED=$1
  if [ -f "$1/deu-eng.zip" ]; then
    UNPACKED=$PREP_DIR/split
    "$PYTHON" "$EXAMPLES/tatoeba.de-en/split.py" "$1/deu-eng.zip" "$UNPACKED"
  fi
}

recipe_main "$@"
