# shellcheck shell=bash
# A small Transformer on lower-cased text in a joined dictionary: what the sets share whose models
# train on a CPU, an epoch in minutes. Sourced by their run.sh, which adds --max-epoch.

LOWERCASE=1
: "${TABLE_DIM:=128}"
EMBED_DIM=128 # of the embeddings that a learned table is tied to
# vectors of fastText share a direction; random ones do not
[ "${TABLE_SOURCE:=fasttext}" != fasttext ] || : "${TABLE_OPTIONS=--center}"
PREPROCESS_OPTIONS=(--joined-dictionary)

# The softmax model shares all three of its embeddings, which is what suits it best here.
CONTINUOUS_ARCH=continuous_transformer CONTINUOUS_OPTIONS=(--decoder-input encoder)
SOFTMAX_ARCH=transformer SOFTMAX_OPTIONS=(--share-all-embeddings)
if [ "${SUBWORD_METHOD:-}" = none ]; then # few words are of both languages
  PREPROCESS_OPTIONS=() CONTINUOUS_OPTIONS=() SOFTMAX_OPTIONS=(--share-decoder-input-output-embed)
fi
MODEL_OPTIONS=(--encoder-layers 3 --decoder-layers 3
  --encoder-embed-dim 128 --decoder-embed-dim 128
  --encoder-ffn-embed-dim 512 --decoder-ffn-embed-dim 512
  --encoder-attention-heads 4 --decoder-attention-heads 4 --dropout 0.1)
TRAIN_OPTIONS=(--optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0
  --lr 3e-3 --lr-scheduler inverse_sqrt --warmup-updates 400
  --max-tokens 4096)
BEST_LR=5e-3 # of best and best-frozen; docs/ablations.md has the softmax with it, too
