#!/usr/bin/env bash
# IWSLT 2016, French → English: TED talks, the main set of Sachin Kumar and Yulia Tsvetkov (2019),
# "Von Mises-Fisher loss for training sequence to sequence models with continuous outputs",
# https://arxiv.org/abs/1812.04616
#
#   [DATA_DIR=…] examples/iwslt16.fr-en/run.sh RECIPE OUT_DIR [more fairseq-train options]
#
# DATA_DIR holds the site's archives under their paths there: 2016-01/texts/fr/en/fr-en.tgz (train,
# development), 2016-01-test/texts/fr/en/fr-en.tgz (French side of the tests) and
# 2016-01-test/texts/en/fr/en-fr.tgz (English side); or the files in them, unpacked.
# Validation: TED tst2013 + tst2014; test: tst2015 + tst2016, as in the paper.
# Text: Moses-tokenised words, no subwords, the 50,000 most frequent of each side, 300-dimensional
# vectors, as in the paper. Case is kept, where the paper has a truecaser (a Moses script); the
# vectors are trained on this text, where the paper has a larger one: VECTORS=FILE takes others.
# Score: detokenised, with case, against the published references. The paper decodes greedily.
#
# MODEL=lstm (default) has the sizes of the paper's code: two layers, hidden states of 1024, input
# embeddings of 512, batches of 64 sentences, gradients clipped at 5. Its learning rate is our choice.
# MODEL=transformer has those of the authors' later instructions (github.com/Sachin19/seq2seq-con):
# 6 layers, 512, 1024, 4 heads, 2 × 4000 tokens, 40,000 updates, peak rate 7e-4, weight decay 1e-5
# (with Adam and an inverse square root, where they have RAdam and a linear decay).
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

SET=iwslt16.fr-en SOURCE_LANG=fr TARGET_LANG=en TEST_NAME=tst2015+tst2016
MAX_LENGTH=100 MAX_RATIO=9
: "${SUBWORD_METHOD:=none}" "${SUBWORDS:=16000}" "${TABLE_DIM:=300}" "${MODEL:=lstm}"
EMBED_DIM=512
PREPROCESS_OPTIONS=(--nwordssrc 50000 --nwordstgt 50000)

SOFTMAX_OPTIONS=()
case $MODEL in
  lstm)
    CONTINUOUS_ARCH=continuous_lstm SOFTMAX_ARCH=lstm
    MODEL_OPTIONS=(--encoder-embed-dim 512 --encoder-hidden-size 512 --encoder-bidirectional
      --encoder-layers 2 --decoder-embed-dim 512 --decoder-hidden-size 1024 --decoder-layers 2
      --decoder-out-embed-dim 1024 --dropout 0.3)
    TRAIN_OPTIONS=(--optimizer adam --clip-norm 5.0 --lr 5e-4 --lr-scheduler fixed
      --batch-size 64 --max-epoch 13)
    ;;
  transformer)
    CONTINUOUS_ARCH=continuous_transformer_iwslt_de_en SOFTMAX_ARCH=transformer_iwslt_de_en
    MODEL_OPTIONS=(--dropout 0.1)
    TRAIN_OPTIONS=(--optimizer adam --adam-betas '(0.9, 0.9995)' --clip-norm 5.0
      --lr 7e-4 --lr-scheduler inverse_sqrt --warmup-updates 4000 --weight-decay 0.00001
      --max-tokens 4000 --update-freq 2 --max-update 40000)
    ;;
  *) die "MODEL must be lstm or transformer, but is $MODEL" ;;
esac

corpus() {
  local site=https://wit3.fbk.eu/archive lang year
  local train=2016-01/texts/fr/en/fr-en.tgz
  for lang in fr en; do
    echo "train $lang tags fr-en/train.tags.fr-en.$lang $train $site/$train"
    for year in 2013 2014; do
      echo "valid $lang seg fr-en/IWSLT16.TED.tst$year.fr-en.$lang.xml $train $site/$train"
    done
  done
  # each direction's archive has its source side only
  for year in 2015 2016; do
    test_line fr fr-en "$year"
    test_line en en-fr "$year"
  done
}

test_line() {
  local archive=2016-01-test/texts/$1/${2#*-}/$2.tgz
  echo "test $1 seg $2/IWSLT16.TED.tst$3.$2.$1.xml $archive https://wit3.fbk.eu/archive/$archive"
}

recipe_main "$@"
