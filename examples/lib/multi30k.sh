# shellcheck shell=bash
# Multi30k in either direction: what multi30k.de-en/run.sh and multi30k.en-de/run.sh share.

SET=multi30k.$SOURCE_LANG-$TARGET_LANG TEST_NAME=test_2016_flickr
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
