#!/usr/bin/env bash
# WMT 2014, English → German news (Ondřej Bojar et al., 2014, https://aclanthology.org/W14-3302).
#
#   [DATA_DIR=…] examples/wmt14.en-de/run.sh RECIPE OUT_DIR [more fairseq-train options]
#
# DATA_DIR holds training-parallel-europarl-v7.tgz, training-parallel-commoncrawl.tgz,
# training-parallel-nc-v9.tgz, dev.tgz and test-full.tgz of the WMT site, or the files in them,
# unpacked: the sources of fairseq's prepare-wmt14en2de.sh --icml17.
# Validation: newstest2013; test: newstest2014.
# Text: Moses-tokenised, with case, 32,000 joint merges and one dictionary. Score: detokenised, with
# case, against the published references; older papers report tokenised BLEU, which is higher.
# Training: the base Transformer of Vaswani et al. (2017, https://arxiv.org/abs/1706.03762) with the
# options of fairseq's examples/scaling_nmt (Myle Ott, Sergey Edunov, David Grangier and Michael
# Auli, 2018, https://arxiv.org/abs/1806.00187), batches of 8 × 3584 tokens, 100,000 updates.
# SIZE=big is the model of that paper.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

SET=wmt14.en-de SOURCE_LANG=en TARGET_LANG=de TEST_NAME=newstest2014
MAX_LENGTH=250 MAX_RATIO=1.5
: "${SUBWORDS:=32000}" "${TABLE_DIM:=300}" "${SIZE:=base}"
PREPROCESS_OPTIONS=(--joined-dictionary)

SOFTMAX_OPTIONS=(--share-all-embeddings) CONTINUOUS_OPTIONS=(--decoder-input encoder)
case $SIZE in
  base)
    CONTINUOUS_ARCH=continuous_transformer_wmt_en_de SOFTMAX_ARCH=transformer_wmt_en_de
    MODEL_OPTIONS=(--dropout 0.1)
    EMBED_DIM=512
    ;;
  big)
    CONTINUOUS_ARCH=continuous_transformer_vaswani_wmt_en_de_big
    SOFTMAX_ARCH=transformer_vaswani_wmt_en_de_big
    MODEL_OPTIONS=(--dropout 0.3)
    EMBED_DIM=1024
    ;;
  *) die "SIZE must be base or big, but is $SIZE" ;;
esac
TRAIN_OPTIONS=(--optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 0.0
  --lr 5e-4 --lr-scheduler inverse_sqrt --warmup-init-lr 1e-7 --warmup-updates 4000
  --max-tokens 3584 --update-freq 8 --max-update 100000
  --save-interval-updates 2000 --keep-interval-updates 1)

corpus() {
  local wmt=https://www.statmt.org lang side
  for lang in en de; do
    side=src
    [ "$lang" = en ] || side=ref
    echo "train $lang plain training/europarl-v7.de-en.$lang training-parallel-europarl-v7.tgz $wmt/wmt13/training-parallel-europarl-v7.tgz"
    echo "train $lang plain commoncrawl.de-en.$lang training-parallel-commoncrawl.tgz $wmt/wmt13/training-parallel-commoncrawl.tgz"
    echo "train $lang plain training/news-commentary-v9.de-en.$lang training-parallel-nc-v9.tgz $wmt/wmt14/training-parallel-nc-v9.tgz"
    echo "valid $lang plain dev/newstest2013.$lang dev.tgz $wmt/wmt14/dev.tgz"
    echo "test $lang seg test-full/newstest2014-deen-$side.$lang.sgm test-full.tgz $wmt/wmt14/test-full.tgz"
  done
}

recipe_main "$@"
