# shellcheck shell=bash
# Subwords: learned, applied, and sampled. Sourced by lib.sh.
#
# With BPE_DROPOUT (Ivan Provilkov, Dmitrii Emelianenko and Elena Voita, 2020, BPE-Dropout: Simple and
# Effective Subword Regularization, https://aclanthology.org/2020.acl-main.170) the training text has
# SEGMENTATIONS segmentations, in each of which a merge is left out with that probability. An epoch
# reads one of them, the next the next.

check_dropout() {
  if [ -z "$BPE_DROPOUT" ]; then
    [ -z "$SEGMENTATIONS" ] || die "SEGMENTATIONS needs BPE_DROPOUT, without which all are the same, but is $SEGMENTATIONS; give BPE_DROPOUT, or leave it out"
    return 0
  fi
  : "${SEGMENTATIONS:=8}"
  [[ $BPE_DROPOUT =~ ^0?\.[0-9]*[1-9][0-9]*$ ]] ||
    die "BPE_DROPOUT must be a probability above 0 and below 1, but is $BPE_DROPOUT; leave it out for one segmentation"
  [ "$SUBWORD_METHOD" = bpe ] ||
    die "BPE_DROPOUT needs SUBWORD_METHOD=bpe, but that is $SUBWORD_METHOD; leave it out"
  [[ $SEGMENTATIONS =~ ^[1-9][0-9]*$ ]] ||
    die "SEGMENTATIONS must be a number, 1 or more, but is $SEGMENTATIONS; leave it out for 8"
}

stage_subwords() {
  local split lang
  mkdir -p "$PIECES"
  if [ "$SUBWORD_METHOD" != none ]; then
    "$PYTHON" "$ROOT/preprocess/learn_subwords.py" --method "$SUBWORD_METHOD" --size "$SUBWORDS" \
      --seed "$PREP_SEED" --output "$PREP_DIR/subwords" \
      "$CLEAN/train.$SOURCE_LANG" "$CLEAN/train.$TARGET_LANG"
  fi
  for split in train valid test; do
    for lang in "$SOURCE_LANG" "$TARGET_LANG"; do
      segment "$CLEAN/$split.$lang" "$PIECES/$split.$lang"
    done
  done
  [ -z "$BPE_DROPOUT" ] || sample_segmentations
}

# segment FROM TO [options of apply_subwords.py]
segment() {
  local from=$1 to=$2
  shift 2
  if [ "$SUBWORD_METHOD" = none ]; then
    cp "$from" "$to"
  else
    "$PYTHON" "$ROOT/preprocess/apply_subwords.py" --method "$SUBWORD_METHOD" \
      --model "$SUBWORD_MODEL" --input "$from" --output "$to" "$@"
  fi
}

# PIECES/dropout-N has segmentation N, PIECES/dropout all of them and the one without dropout.
sample_segmentations() {
  local lang number
  for lang in "$SOURCE_LANG" "$TARGET_LANG"; do
    cp "$PIECES/train.$lang" "$PIECES/dropout.$lang"
    for ((number = 1; number <= SEGMENTATIONS; number++)); do
      segment "$CLEAN/train.$lang" "$PIECES/dropout-$number.$lang" --dropout "$BPE_DROPOUT" \
        --seed "$((1000 * 10#$PREP_SEED + number))"
      cat "$PIECES/dropout-$number.$lang" >>"$PIECES/dropout.$lang"
    done
  done
}

# One dictionary for all segmentations; BIN_DIR has the first, and all other text.
binarise_segmentations() {
  local number dictionaries=(--srcdict "$PREP_DIR/dictionary/dict.$SOURCE_LANG.txt"
    --tgtdict "$PREP_DIR/dictionary/dict.$TARGET_LANG.txt")
  binarise_pairs "$PREP_DIR/dictionary" --dict-only --trainpref "$PIECES/dropout" \
    ${PREPROCESS_OPTIONS[@]+"${PREPROCESS_OPTIONS[@]}"}
  for ((number = 2; number <= SEGMENTATIONS; number++)); do
    binarise_pairs "$BIN_DIR-$number" --trainpref "$PIECES/dropout-$number" "${dictionaries[@]}"
  done
  binarise_pairs "$BIN_DIR" --trainpref "$PIECES/dropout-1" --validpref "$PIECES/valid" \
    --testpref "$PIECES/test" "${dictionaries[@]}"
}

# Print what fairseq-train reads: folders of which each epoch takes the next.
training_data() {
  local number data=$BIN_DIR
  if [ -n "$BPE_DROPOUT" ]; then
    for ((number = 2; number <= SEGMENTATIONS; number++)); do
      data+=:$BIN_DIR-$number
    done
  fi
  printf '%s\n' "$data"
}
