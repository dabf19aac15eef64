#!/usr/bin/env bash
# WikiText-2: a language model of 2 million words of Wikipedia, 33,278 types (Stephen Merity, Caiming
# Xiong, James Bradbury and Richard Socher, 2017, https://arxiv.org/abs/1609.07843).
#
#   [DATA_DIR=…] examples/wikitext-2/run.sh RECIPE OUT_DIR [more fairseq-train options]
#
# DATA_DIR holds train.txt, valid.txt and test.txt (plain, .gz or .xz), as the authors tokenised them.
# A small Transformer (2 layers, d = 256) for a CPU, the same for all recipes; blocks of 256 tokens.
# Perplexity: per token, with </s> at the ends of lines and <unk> as in the files, over blocks of 256
# tokens without context from the block before.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

SET=wikitext-2 TARGET_LANG=en TEST_NAME=wikitext-2-test
: "${SOFTMAX_BATCH:=2048}" "${FASTTEXT_EPOCHS:=10}" "${CHECKPOINT:=best}"
: "${TABLE_DIM:=256}" "${TABLE_SOURCE:=fasttext}"
[ "$TABLE_SOURCE" != fasttext ] || : "${TABLE_OPTIONS=--center}" # vectors of fastText share a direction
EMBED_DIM=256
# shellcheck source=../lib/language_model.sh
. "$LIB/language_model.sh"

# fairseq's transformer_lm has embeddings of 512 unless the last two say otherwise
MODEL_OPTIONS=(--decoder-layers 2 --decoder-embed-dim 256 --decoder-ffn-embed-dim 1024
  --decoder-attention-heads 4 --dropout 0.2 --decoder-input-dim 256 --decoder-output-dim 256)
TRAIN_OPTIONS=(--optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0
  --lr 2e-3 --lr-scheduler inverse_sqrt --warmup-updates 400
  --tokens-per-sample 256 --sample-break-mode none --max-tokens 2048 --max-epoch 1)
EVAL_OPTIONS=(--tokens-per-sample 256 --sample-break-mode none --max-tokens 4096)

corpus() {
  local site=https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2
  local split
  for split in train valid test; do
    echo "$split en plain $split.txt - $site/$split.txt"
  done
}

recipe_main "$@"
