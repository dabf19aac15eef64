#!/usr/bin/env bash
# IWSLT 2014, German → English: TED talks (Mauro Cettolo, Jan Niehues, Sebastian Stüker, Luisa
# Bentivogli and Marcello Federico, 2014, https://aclanthology.org/2014.iwslt-evaluation.1).
#
#   [DATA_DIR=…] examples/iwslt14.de-en/run.sh RECIPE OUT_DIR [more fairseq-train options]
#
# DATA_DIR holds either the site's de-en.tgz (or what it unpacks to), or train, valid and test,
# each .de and .en (plain, .gz or .xz), as fairseq's prepare-iwslt14.sh leaves them before BPE:
# Moses-tokenised and lower-cased. TEST_SETS files are of the same kind as those of DATA_DIR.
# Text, split and hyper-parameters are those of fairseq's examples/translation: 10,000 joint merges,
# every 23rd pair for validation, five TED sets for test.
# Score: BLEU over lower-cased tokens (tok:none in the signature), the custom for this set. It is not
# comparable with a BLEU of detokenised text.
# SIZE=small is for a part of this text and a CPU: a small Transformer, 4,000 joint merges in one
# dictionary, 30 epochs.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

SET=iwslt14.de-en SOURCE_LANG=de TARGET_LANG=en TEST_NAME=iwslt14-test
LOWERCASE=1 SCORE=tokenized MAX_LENGTH=175 MAX_RATIO=1.5
case ${SIZE:=full} in
  full)
    : "${SUBWORDS:=10000}" "${TABLE_DIM:=300}"
    EMBED_DIM=512
    PREPROCESS_OPTIONS=()
    CONTINUOUS_ARCH=continuous_transformer_iwslt_de_en
    SOFTMAX_ARCH=transformer_iwslt_de_en SOFTMAX_OPTIONS=(--share-decoder-input-output-embed)
    MODEL_OPTIONS=(--dropout 0.3)
    TRAIN_OPTIONS=(--optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 0.0
      --lr 5e-4 --lr-scheduler inverse_sqrt --warmup-updates 4000 --weight-decay 0.0001
      --max-tokens 4096 --max-update 50000)
    ;;
  small)
    # shellcheck source=../lib/small.sh
    . "$LIB/small.sh"
    : "${SUBWORDS:=4000}" "${FASTTEXT_EPOCHS:=20}"
    TRAIN_OPTIONS+=(--max-epoch 30)
    ;;
  *) die "SIZE must be full or small, but is $SIZE" ;;
esac

# Text that is tokenised and split already is taken as it is.
recipe_layout() {
  local found
  found=$(find "${DATA_DIR:-/dev/null}" -maxdepth 1 -name 'train.de*' 2>/dev/null | head -n 1)
  PREPARED=0
  if [ -n "$found" ]; then
    PREPARED=1 TOKENIZE=0
  else
    VALID_EVERY=23
  fi
}

# fairseq's script does not split at hyphens: undo it, so that scores over tokens are comparable.
finish_text() {
  sed -e 's/ @-@ /-/g'
}

corpus() {
  local url=https://wit3.fbk.eu/archive/2014-01/texts/de/en/de-en.tgz split lang name
  for lang in de en; do
    if [ "$PREPARED" = 1 ]; then
      for split in train valid test; do
        echo "$split $lang plain $split.$lang - -"
      done
      continue
    fi
    echo "train $lang tags de-en/train.tags.de-en.$lang de-en.tgz $url"
    for name in TED.dev2010 TEDX.dev2012 TED.tst2010 TED.tst2011 TED.tst2012; do
      echo "test $lang seg de-en/IWSLT14.$name.de-en.$lang.xml de-en.tgz $url"
    done
  done
}

recipe_main "$@"
