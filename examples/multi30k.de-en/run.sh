#!/usr/bin/env bash
# Multi30k, German → English: 29,000 image captions (Desmond Elliott, Stella Frank, Khalil Sima'an
# and Lucia Specia, 2016, https://aclanthology.org/W16-3210). Licence: non-commercial research.
#
#   [DATA_DIR=…] examples/multi30k.de-en/run.sh RECIPE OUT_DIR [more fairseq-train options]
#
# DATA_DIR holds train, val and test_2016_flickr, each .de and .en (plain, .gz or .xz), as in
# data/task1/raw of the repository multi30k/dataset.
# Text: lower-cased and Moses-tokenised; scored detokenised against the published references,
# without case (case:lc in the signature).
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

SET=multi30k.de-en SOURCE_LANG=de TARGET_LANG=en TEST_NAME=test_2016_flickr
LOWERCASE=1
: "${SUBWORDS:=6000}" "${TABLE_DIM:=128}" "${FASTTEXT_EPOCHS:=10}"
# vectors of fastText share a direction; random ones do not
[ "${TABLE_SOURCE:=fasttext}" != fasttext ] || : "${TABLE_OPTIONS=--center}"
PREPROCESS_OPTIONS=(--joined-dictionary)

# Small enough for an epoch in two minutes on one core. The softmax model shares all three of its
# embeddings, which is what suits it best here.
CONTINUOUS_ARCH=continuous_transformer CONTINUOUS_OPTIONS=(--decoder-input encoder)
SOFTMAX_ARCH=transformer SOFTMAX_OPTIONS=(--share-all-embeddings)
MODEL_OPTIONS=(--encoder-layers 3 --decoder-layers 3
  --encoder-embed-dim 128 --decoder-embed-dim 128
  --encoder-ffn-embed-dim 512 --decoder-ffn-embed-dim 512
  --encoder-attention-heads 4 --decoder-attention-heads 4 --dropout 0.1)
TRAIN_OPTIONS=(--optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0
  --lr 3e-3 --lr-scheduler inverse_sqrt --warmup-updates 400 --warmup-init-lr 1e-7
  --max-tokens 4096 --max-epoch 7)

corpus() {
  local url=https://github.com/multi30k/dataset/raw/master/data/task1/raw lang
  for lang in de en; do
    echo "train $lang plain train.$lang - $url/train.$lang.gz"
    echo "valid $lang plain val.$lang - $url/val.$lang.gz"
    echo "test $lang plain test_2016_flickr.$lang - $url/test_2016_flickr.$lang.gz"
  done
}

recipe_main "$@"
