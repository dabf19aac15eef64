#!/usr/bin/env bash
# WMT 2016, Romanian → English news (Ondřej Bojar et al., 2016, https://aclanthology.org/W16-2301),
# the main set of Evgeniia Tokarchuk and Vlad Niculae (2024), "The unreasonable effectiveness of
# random target embeddings for continuous-output neural machine translation",
# https://arxiv.org/abs/2310.20620
#
#   [DATA_DIR=…] examples/wmt16.ro-en/run.sh RECIPE OUT_DIR [more fairseq-train options]
#
# DATA_DIR holds training-parallel-ep-v8.tgz, dev.tgz and test.tgz of the WMT site and en-ro.txt.zip
# (SETIMES) of OPUS, or the files in them, unpacked. Back-translations are not used.
# Validation: newsdev2016; test: newstest2016.
# Text: Moses-tokenised, with case, 40,000 joint merges and one dictionary; the two ways to write
# ș and ț are made one, as Rico Sennrich, Barry Haddow and Alexandra Birch (2016,
# https://aclanthology.org/W16-2323) do. Score: detokenised, with case, against the published
# references.
# Training: the base Transformer of Vaswani et al. (2017, https://arxiv.org/abs/1706.03762) with the
# options of fairseq's examples/scaling_nmt, dropout 0.3 for this smaller set.
# TABLE_SOURCE=random gives the random targets of the paper above, and
# TABLE_OPTIONS='--mix-random 0.5' its mixture of pretrained and random vectors.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

SET=wmt16.ro-en SOURCE_LANG=ro TARGET_LANG=en TEST_NAME=newstest2016
MAX_LENGTH=250 MAX_RATIO=1.5
: "${SUBWORDS:=40000}" "${TABLE_DIM:=300}"
EMBED_DIM=512
PREPROCESS_OPTIONS=(--joined-dictionary)

CONTINUOUS_ARCH=continuous_transformer_wmt_en_de CONTINUOUS_OPTIONS=(--decoder-input encoder)
SOFTMAX_ARCH=transformer_wmt_en_de SOFTMAX_OPTIONS=(--share-all-embeddings)
MODEL_OPTIONS=(--dropout 0.3)
TRAIN_OPTIONS=(--optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 0.0
  --lr 5e-4 --lr-scheduler inverse_sqrt --warmup-init-lr 1e-7 --warmup-updates 4000
  --max-tokens 4096 --update-freq 4 --max-update 50000
  --save-interval-updates 2000 --keep-interval-updates 1)

corpus() {
  local wmt=https://data.statmt.org/wmt16/translation-task lang side
  for lang in ro en; do
    side=src
    [ "$lang" = ro ] || side=ref
    echo "train $lang plain training-parallel-ep-v8/europarl-v8.ro-en.$lang training-parallel-ep-v8.tgz $wmt/training-parallel-ep-v8.tgz"
    echo "train $lang plain SETIMES.en-ro.$lang,SETIMES2.en-ro.$lang en-ro.txt.zip https://object.pouta.csc.fi/OPUS-SETIMES/v2/moses/en-ro.txt.zip"
    echo "valid $lang seg dev/newsdev2016-roen-$side.$lang.sgm dev.tgz $wmt/dev.tgz"
    echo "test $lang seg test/newstest2016-roen-$side.$lang.sgm test.tgz $wmt/test.tgz"
  done
}

# Romanian text has ş and ţ with a cedilla where ș and ț with a comma are meant.
normalize_text() {
  if [ "$1" = ro ]; then
    sed -e 's/ş/ș/g' -e 's/Ş/Ș/g' -e 's/ţ/ț/g' -e 's/Ţ/Ț/g'
  else
    cat
  fi
}

recipe_main "$@"
